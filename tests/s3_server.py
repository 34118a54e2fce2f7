"""An S3 server for tests, a process of its own: moto, with one empty bucket.

It lives as long as its standard input stays open, so it never outlives who started it.

    python tests/s3_server.py        prints the address of the endpoint
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.request import Request, urlopen

BUCKET = "releases"


def environment(url: str) -> dict[str, str]:
    """What a process needs in order to find the server, and be let in."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server that is there until the context ends."""
    server = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    )
    with server:  # leaving closes its standard input, and waits
        url = server.stdout.readline().strip()
        urlopen(Request(f"{url}/{BUCKET}", method="PUT")).close()
        yield url


def main() -> None:
    """Serve until standard input ends; one request at a time, for moto is not atomic by itself."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"  # clients keep their connections

        def log(self, *args):
            """Say nothing."""

    app, one = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def atomic(environ, start_response):
        with one:
            return list(app(environ, start_response))

    server = make_server("127.0.0.1", 0, atomic, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
