"""Bad files on the command line: one clear line, exit code 1, and no store is touched."""

import os
import socket
from pathlib import Path

import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

from adapters_store import artifact
from rootstock.main import app
from tests import forge
from tests.matrix_artifacts import BYTES, HEADERS, MANIFESTS, TASK, TASK_NAMES, TENSORS


@pytest.fixture(scope="module")
def made(tiny, make_adapter, tmp_path_factory):
    """(a valid artifact in its parts, the weights of its backbone)."""
    folder = tmp_path_factory.mktemp("made")
    save_file(tiny.net.state_dict(), folder / "tiny.safetensors")
    data = artifact.write(make_adapter(tiny, "lora", TASK))
    return forge.opened(data, folder / "sprung"), folder / "tiny.safetensors"


@pytest.fixture
def good(made, tmp_path):
    """A valid artifact in a file."""
    file = tmp_path / "good.safetensors"
    file.write_bytes(made[0].data)
    return file


def refused(*words: object) -> str:
    """The one line of a command that fails."""
    result = CliRunner().invoke(app, [str(w) for w in words])
    assert result.exit_code == 1, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.output.startswith("rootstock: ")
    assert result.output.count("\n") == 1, result.output
    assert result.output.strip().isprintable()
    return result.output


# A command asks for no task, and looks at a file alone before it builds the backbone to hold it to;
# the cases of several faults at once are for the door. What is refused there, all of it, is refused
# here by the same code: some are enough.
ALONE = [
    c for c in (*BYTES, *HEADERS, *TENSORS, *MANIFESTS) if "'flowers', not 'digits'" not in c.words
]


@pytest.mark.parametrize("case", ALONE[::2], ids=str)
def test_verify_refuses_bad_artifacts_in_one_line(case, made, tmp_path):
    sound, weights = made
    file = tmp_path / "bad.safetensors"
    file.write_bytes(case.spoil(sound))

    said = refused("adapter", "verify", file, "--weights", weights)

    assert all(word in said for word in case.words), said[:1000]
    assert not sound.trap.exists(), "somebody unpickled"


@pytest.mark.parametrize("case", ALONE[1::4], ids=str)
def test_publish_refuses_bad_artifacts_and_makes_no_store(case, made, tmp_path):
    sound, weights = made
    file = tmp_path / "bad.safetensors"
    file.write_bytes(case.spoil(sound))

    refused("store", "publish", file, "--store", tmp_path / "store", "--weights", weights)

    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", TASK_NAMES[::3])
def test_a_task_with_such_a_name_is_not_published(name, made, tmp_path):
    sound, weights = made
    file = tmp_path / "bad.safetensors"
    file.write_bytes(forge.manifest(task=name)(sound))

    said = refused("store", "publish", file, "--store", tmp_path / "s", "--weights", weights)

    assert "manifest.task" in said
    assert not (tmp_path / "s").exists()


def test_a_link_to_a_file_is_that_file(good, made, tmp_path):
    link = tmp_path / "link.safetensors"
    link.symlink_to(good)

    result = CliRunner().invoke(app, ["adapter", "verify", str(link), "--weights", str(made[1])])

    assert result.exit_code == 0, result.output


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "command", [("adapter", "verify"), ("adapter", "show"), ("store", "publish")]
)
@pytest.mark.parametrize(
    ("make", "word"),
    [
        (_loop, "ymbolic links"),
        (_dangling, "no such file"),
        (os.mkfifo, "is a pipe, a socket or a device"),
        (lambda path: path.symlink_to("/dev/zero"), "is a pipe, a socket or a device"),
        (_socket, "is a pipe, a socket or a device"),
        (Path.mkdir, "is a folder"),
        (lambda path: path.symlink_to("/"), "is a folder"),
        (lambda path: path.symlink_to("/proc/self/mem"), "rror"),
        (_sparse, "an artifact has at most"),
        (lambda path: None, "no such file"),
    ],
    ids=["loop", "dangling", "fifo", "zero", "socket", "folder", "/", "mem", "sparse", "absent"],
)
def test_what_is_no_regular_file_is_not_read(command, make, word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's address is short
    make(Path("a"))

    store = ("--store", tmp_path / "store") if command[0] == "store" else ()
    said = refused(*command, "a", *store)

    assert word in said
    assert not (tmp_path / "store").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_said(good):
    good.chmod(0)

    assert "Permission denied" in refused("adapter", "show", good)


def test_a_file_name_does_nothing_to_the_terminal(tmp_path):
    file = tmp_path / "a\x1b[2J\u202e.safetensors"
    file.write_bytes(b"no artifact")

    assert "a\\x1b[2J\\u202e.safetensors" in refused("adapter", "show", file)
    assert "no such file" in refused("adapter", "show", tmp_path / "\x1b[2J")
