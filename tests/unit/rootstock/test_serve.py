"""`rootstock serve` before anything starts: tokens, defaults, and mistakes in one line."""

import hashlib
import socket

import pytest
import typer
from typer.testing import CliRunner

from rootstock.commands.serve import read_tokens, serve

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(serve)
runner = CliRunner()


def test_a_token_file_gives_hashes_scopes_and_names(tmp_path):
    """Comments and empty lines are passed over, and no token is kept."""
    file = tmp_path / "tokens"
    file.write_text(
        "# who may do what\n\npredict reader-0123456789\nadmin,predict keeper-0123456789 anna\n"
    )

    reader, keeper = read_tokens(file)

    assert reader.scopes == {"predict"}
    assert reader.name == ""
    assert keeper.scopes == {"predict", "admin"}
    assert keeper.name == "anna"
    assert keeper.sha256 == hashlib.sha256(b"keeper-0123456789").hexdigest()


def test_every_fault_of_a_token_file_is_told_with_its_line(tmp_path, capsys):
    """One message for all of them, and none of them repeats a token."""
    file = tmp_path / "tokens"
    file.write_text("root reader-0123456789\npredict short\npredict\npredict a b c d\n")

    with pytest.raises(typer.Exit):
        read_tokens(file)

    said = capsys.readouterr().err
    assert [f"line {n}" in said for n in (1, 2, 3, 4)] == [True] * 4
    assert "reader" not in said


def test_a_token_file_without_tokens_is_refused(tmp_path, capsys):
    """An empty file must not open the server to everybody."""
    file = tmp_path / "tokens"
    file.write_text("# none yet\n")

    with pytest.raises(typer.Exit):
        read_tokens(file)

    assert "no token" in capsys.readouterr().err


def test_a_taken_port_ends_the_command_in_one_line(tmp_path):
    """Before Ray is started, and without a traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])

        result = runner.invoke(app, ["--store", str(tmp_path), "--port", port])

    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_address_that_haproxy_cannot_serve_is_refused_with_the_way_out(tmp_path):
    """Without tokens there is also a warning that the server would be open."""
    arguments = ["--store", str(tmp_path), "--host", "192.168.1.7", "--ingress", "haproxy"]

    result = runner.invoke(app, arguments)

    assert result.exit_code == 1
    assert "use the python ingress" in result.stderr
    assert "everybody may predict" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "0"],
        ["--dtype", "fp16"],
        ["--replicas", "0"],
        ["--topology", "both"],
        ["--doors", "0"],
    ],
)
def test_values_out_of_range_are_refused(tmp_path, arguments):
    """The command line says which option was wrong."""
    result = runner.invoke(app, ["--store", str(tmp_path), *arguments])

    assert result.exit_code == 2
    assert arguments[0] in result.stderr


def test_doors_of_their_own_need_the_topology_that_has_them(tmp_path):
    """An option that would do nothing is a mistake."""
    result = runner.invoke(app, ["--store", str(tmp_path), "--doors", "2"])

    assert result.exit_code == 1
    assert "topology split" in result.stderr


def test_an_empty_store_is_no_store():
    """An unset shell variable must not serve the current folder."""
    result = runner.invoke(app, ["--store", ""])

    assert result.exit_code == 1
    assert "--store is empty" in result.stderr
