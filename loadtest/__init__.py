"""What serving feels like from outside: HTTP only. Imports nothing else of this project."""
