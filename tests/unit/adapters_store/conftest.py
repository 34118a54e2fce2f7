"""Fresh stores of every kind; S3 is a moto server in this process."""

import threading
import uuid
from contextlib import contextmanager
from urllib.request import Request, urlopen

import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class Quiet(WSGIRequestHandler):
    def log(self, *args):
        """Say nothing."""


@contextmanager
def s3_server():
    """A moto server that takes one request at a time: its own put-if-absent is not atomic."""
    app, one = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def atomic(environ, start_response):
        with one:
            return list(app(environ, start_response))

    server = make_server("127.0.0.1", 0, atomic, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def bucket():
    """The address of an empty bucket."""
    with s3_server() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("NO_PROXY", "127.0.0.1")
        urlopen(Request(f"{url}/releases", method="PUT")).close()
        yield "s3://releases"


@pytest.fixture(params=["folder", "file", "memory", "s3"])
def uri(request, tmp_path):
    """A fresh store of every kind."""
    match request.param:
        case "folder":
            return str(tmp_path / "a store")
        case "file":
            return (tmp_path / "a store").as_uri()
        case "memory":
            return f"memory://{uuid.uuid4()}"
        case _:
            return f"{request.getfixturevalue('bucket')}/{uuid.uuid4()}"


@pytest.fixture
def memory():
    """A fresh store in memory, for what does not depend on the kind."""
    return f"memory://{uuid.uuid4()}"
