"""Whole servers on this machine: they come up side by side, answer, and leave nothing behind."""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.config import Settings
from serving.launch import LaunchError, Running, check_address, free_port, processes, run
from tests.shelves import until

pytestmark = [pytest.mark.ray, pytest.mark.slow]
REPLICAS = {"haproxy": 2, "python": 1}


def get(server: Running, path: str) -> str:
    """The body of a GET."""
    with urllib.request.urlopen(server.url + path, timeout=10) as answer:
        return answer.read().decode()


def scraped(server: Running) -> dict[str, float]:
    """The fleet's own two numbers of one scrape."""
    return {
        sample.name.removeprefix("rootstock_replicas_"): sample.value
        for family in text_string_to_metric_families(get(server, "/metrics"))
        for sample in family.samples
        if sample.name.startswith("rootstock_replicas_")
    }


def command_line(pid: int) -> str:
    """How a process is called, empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def mentions(text: str) -> list[str]:
    """Living processes whose command line contains the text."""
    pids = (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
    return [line for pid in pids if text in (line := command_line(pid))]


def listening() -> list[tuple[str, int, str]]:
    """Address, port and socket number of everything that listens on this machine."""
    found = []
    for table, mapped in (("tcp", ""), ("tcp6", "0000000000000000FFFF0000")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                address, port = words[1].split(":")
                found.append((address.removeprefix(mapped), int(port, 16), words[9]))
    return found


def listeners(pids: list[int]) -> set[tuple[str, int]]:
    """Addresses and ports that these processes listen on."""
    sockets = set()
    for handle in (h for pid in pids for h in Path(f"/proc/{pid}/fd").glob("*")):
        with suppress(OSError):  # closed by now
            sockets.add(str(handle.readlink()))
    return {(a, port) for a, port, number in listening() if f"socket:[{number}]" in sockets}


def assert_nothing_left(session: int, folder: Path, ports: list[int]) -> None:
    """No process, no folder and no listening port of a server remain."""
    assert processes(session) == []
    assert mentions(str(folder)) == []
    assert not folder.exists()
    assert {port for _, port, _ in listening()}.isdisjoint(ports)


@contextmanager
def stopped(pid: int):
    """A process that does not run for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """One server for each ingress, started at the same moment."""
    folder = tmp_path_factory.mktemp("stores")
    settings = [
        Settings(
            store=f"file://{folder}/{ingress}",
            ingress=ingress,
            port=free_port(),
            replicas=replicas,
            threads=1,
            traces="ray.serve._private.tracing_utils:default_tracing_exporter",
            traces_share=1,
        )
        for ingress, replicas in REPLICAS.items()
    ]
    with ExitStack() as stack:
        with ThreadPoolExecutor() as pool:  # if one does not start, the other is stopped
            running = list(pool.map(lambda one: stack.enter_context(run(one)), settings))
        yield dict(zip(REPLICAS, running, strict=True))


@pytest.fixture(params=list(REPLICAS))
def server(servers, request) -> Running:
    """Each of the two in turn."""
    return servers[request.param]


def test_both_ingresses_answer_side_by_side(server):
    """Two servers on one machine are ready, know their tasks and show their API."""
    assert json.loads(get(server, "/readyz"))["ready"] is True
    assert json.loads(get(server, "/v1/tasks")) == {"items": [], "next": None}
    assert json.loads(get(server, "/openapi.json"))["info"]["title"] == "Rootstock"


def ask(server: Running, path: str, **headers: str) -> tuple[int, str, str]:
    """Status, content type and request id of a GET with some headers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.settings.port, timeout=10)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET", path, headers=names)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers["content-type"], answer.headers["x-request-id"]
    finally:
        connection.close()


def test_a_client_cannot_steer_serve_by_its_headers(server):
    """A limit of a microsecond would give 408; odd request ids would go to logs and back."""
    assert ask(server, "/v1/tasks", x_request_timeout_seconds="0.000001")[0] == 200
    assert ask(server, "/v1/tasks", x_request_id="trace-7")[2] == "trace-7"
    assert len(ask(server, "/v1/tasks", x_request_id="<script>alert(1)</script>")[2]) == 36


def spans(server: Running) -> list[dict]:
    """Every span that replicas have written so far."""
    found = []
    for file in server.paths.folder.glob("session_2*/logs/serve/spans/replica_*"):
        text, at = file.read_text(), 0
        with suppress(json.JSONDecodeError):  # the last one is being written
            while at < len(text):
                span, end = json.JSONDecoder().raw_decode(text, at)
                found.append(span)
                at = end + 1
    return found


def test_a_request_has_a_span_with_its_task_and_none_of_its_secrets(server):
    """Serve's own spans, which say more of the request than Serve knows."""
    path = "/v1/tasks/absent/history?key=secret-key"
    status, _, _ = ask(server, path, x_request_id="trace-8", authorization="Bearer secret-word")

    def mine_so_far():
        told = [span["attributes"] for span in spans(server)]
        return [one for one in told if one.get("request_id") == "trace-8"]

    until(mine_so_far)  # a span is written after its answer has gone
    mine = mine_so_far()
    assert status == 404
    assert [one["rootstock.task"] for one in mine] == ["absent"]
    assert mine[0]["rootstock.code"] == "task_not_found"
    assert "secret" not in json.dumps(spans(server))


def test_headers_that_are_too_long_are_refused(server):
    """Neither a hang nor a lost connection, and the next request is answered."""
    status, _, _ = ask(server, "/v1/tasks", x_padding="a" * 200_000)

    assert 400 <= status < 500
    assert ask(server, "/v1/tasks")[0] == 200


def test_one_scrape_gathers_every_replica(server):
    """Whichever replica is asked, it asks the others, from inside a request."""
    for _ in range(4):
        assert scraped(server) == dict.fromkeys(
            ("expected", "scraped"), REPLICAS[server.settings.ingress]
        )


def test_a_replica_that_hangs_costs_its_own_numbers_and_two_seconds(servers):
    """A broadcast keeps the answers it got in time and never fails because of one replica."""
    server = servers["haproxy"]
    replica = next(p for p in processes(server.session) if "ServeReplica" in command_line(p))
    with stopped(replica):
        seen = []
        for _ in range(4):  # some of them are sent to the replica that hangs
            began = time.monotonic()
            try:
                numbers = scraped(server)
            except OSError:
                continue
            seen.append((numbers["scraped"], time.monotonic() - began))

    assert seen
    assert all(count == 1 and took < 4 for count, took in seen)
    deadline = time.monotonic() + 20
    while scraped(server)["scraped"] < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_nothing_of_ray_is_reachable_from_outside(server):
    """All is on loopback but HAProxy's own metrics and stats: Ray runs what it is sent."""
    loopback = {"0100007F", "00000000000000000000000001000000"}

    heard = listeners(processes(server.session))

    outside = {port for address, port in heard if address not in loopback}
    allowed = set(server.paths.ports[:2]) if server.settings.ingress == "haproxy" else set()
    assert server.settings.port in {port for _, port in heard}
    assert outside == allowed


def test_a_server_that_stops_answers_what_it_accepted_and_leaves_nothing(server):
    """A half-sent upload still gets its answer; then processes, folder and ports are gone."""
    known = (server.session, server.paths.folder, [server.settings.port, *server.paths.ports])
    upload = http.client.HTTPConnection("127.0.0.1", server.settings.port, timeout=20)
    upload.putrequest("PUT", "/v1/tasks/digits")
    upload.putheader("Content-Length", "6")
    upload.endheaders(b"not")
    time.sleep(0.5)

    with ThreadPoolExecutor() as pool:
        began = time.monotonic()
        stopping = pool.submit(server.stop)
        time.sleep(1.5)
        upload.send(b" an")
        status = upload.getresponse().status
        stopping.result()
    upload.close()
    server.stop()  # once more is harmless

    assert status == 422
    assert time.monotonic() - began < 20
    assert_nothing_left(*known)
    check_address(server.settings)


def test_a_replica_that_cannot_start_says_why_and_leaves_nothing(tmp_path):
    """The reason is the replica's own, in one line, without a traceback of Ray."""
    settings = Settings(
        store=f"file://{tmp_path}", weights=tmp_path / "absent.safetensors", port=free_port()
    )
    before = set(mentions("serving.host"))

    with pytest.raises(LaunchError) as caught:
        run(settings)

    text = str(caught.value)
    assert text.startswith("the server did not start: backbone ")
    assert "absent.safetensors" in text
    assert "Traceback" not in text
    assert "\n" not in text
    assert set(mentions("serving.host")) <= before


def test_a_start_that_takes_too_long_is_given_up_cleanly(tmp_path):
    """The bound holds wherever the start is."""
    settings = Settings(store=f"file://{tmp_path}", ingress="python", port=free_port())
    before = set(mentions("serving.host"))

    with pytest.raises(LaunchError, match="not up in time"):
        run(settings, timeout_s=2)

    assert set(mentions("serving.host")) <= before


class Command:
    """`rootstock serve` as a user runs it."""

    def __init__(self, store: Path) -> None:
        self.port = free_port()
        self.stderr = store / "stderr"
        arguments = ["serve", "--store", str(store), "--port", str(self.port), "--json"]
        with self.stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name("rootstock"), *arguments, "--ingress", "python"],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self.process.stdout is not None
        self.said = json.loads("".join(iter(self.process.stdout.readline, "}\n")) + "}")
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        self.session = int(children.split()[0])
        environ = Path(f"/proc/{self.session}/environ").read_bytes().decode()
        self.folder = Path(environ.partition("ROOTSTOCK_RUN=")[2].partition("\0")[0])

    def end(self, how: signal.Signals) -> int:
        """Send a signal and wait for the end."""
        self.process.send_signal(how)
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def logged(self, request_id: str) -> list[dict]:
        """The lines of a request, once there are some; every line is JSON."""
        deadline = time.monotonic() + 30
        while True:
            whole = self.stderr.read_text().rpartition("\n")[0]
            lines = [json.loads(line) for line in whole.splitlines()]
            found = [line for line in lines if line.get("request_id") == request_id]
            if found or time.monotonic() > deadline:
                return found
            time.sleep(0.1)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_the_command_serves_until_it_is_told_to_stop(tmp_path, how):
    """It says where it answers, exits 0 within the bound, and leaves nothing."""
    command = Command(tmp_path)

    assert command.said["url"] == f"http://127.0.0.1:{command.port}"
    with urllib.request.urlopen(command.said["url"] + "/readyz", timeout=5) as answer:
        assert answer.status == 200
    asked = {"X-Request-ID": "trace-9", "Authorization": "Bearer secret-word"}
    url = command.said["url"] + "/v1/tasks?limit=7&page=secret-page"
    urllib.request.urlopen(urllib.request.Request(url, headers=asked), timeout=5).close()
    (line,) = command.logged("trace-9")
    assert (line["message"], line["call"], line["status"]) == ("answered", "GET /v1/tasks", 200)
    assert line["replica"]
    assert "secret" not in command.stderr.read_text()

    assert command.end(how) == 0
    assert_nothing_left(command.session, command.folder, [command.port])


def test_a_command_that_is_killed_takes_its_server_with_it(tmp_path):
    """Nobody is left to clean up, and still everything goes."""
    command = Command(tmp_path)

    command.end(signal.SIGKILL)

    deadline = time.monotonic() + 20
    while processes(command.session) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert_nothing_left(command.session, command.folder, [command.port])


def test_a_server_whose_ray_is_killed_is_noticed_and_cleared_away(tmp_path):
    """Ray's own agents would stay for ever; the sweep ends them."""
    settings = Settings(store=f"file://{tmp_path}", port=free_port())
    with run(settings) as server:
        os.kill(server.session, signal.SIGKILL)

        assert server.wait(10)

    assert_nothing_left(server.session, server.paths.folder, [settings.port, *server.paths.ports])
