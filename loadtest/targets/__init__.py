"""Languages of servers: a request's bytes, and what an answer says. One file each."""
