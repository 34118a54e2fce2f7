"""Fresh stores of every kind; S3 is a moto server in a process of its own."""

import uuid

import pytest

from tests.s3_server import BUCKET, environment, s3_server


@pytest.fixture(scope="session")
def s3():
    """The address of an S3 server with an empty bucket."""
    with s3_server() as url:
        yield url


@pytest.fixture(scope="module")
def bucket(s3):
    """The address of a bucket that this process may use."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(s3).items():
            patch.setenv(name, value)
        yield f"s3://{BUCKET}"


@pytest.fixture(params=["folder", "file", "memory", pytest.param("s3", marks=pytest.mark.slow)])
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
