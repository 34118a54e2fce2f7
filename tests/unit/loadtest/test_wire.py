"""The client keeps connections, sends nothing twice, and tells every way to fail apart."""

import asyncio
import contextlib
import socket

import pytest

from loadtest.outcomes import Outcome
from loadtest.wire import Pool, Reply, ask, head, origin_of
from tests.known_server import Behaviour, KnownServer


def sent_in_turn(url, count, timeout_s=10.0):
    """Requests one after another, and what came of each."""

    async def main():
        landed = asyncio.Queue()
        pool = Pool(
            origin_of(url), timeout_s, lambda token, reply: landed.put_nowait((token, reply))
        )
        lines = head(origin_of(url), "POST", "/v1/tasks/a:predict", {}, 2)
        found = []
        for token in range(count):
            pool.send(token, (lines, b"xy"))
            assert pool.in_flight == 1
            found.append(await landed.get())
            assert pool.in_flight == 0
        pool.close()
        return found

    return asyncio.run(main())


def answered(*answers, close=True):
    """What a client makes of these bytes of a server, one write after another."""

    async def main():
        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            for data in answers:
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(0)
            if not close:
                await reader.read()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            served.set()

        served = asyncio.Event()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        found = await ask(origin_of(url), "GET", "/", headers={}, timeout_s=10.0)
        await served.wait()
        server.close()
        await server.wait_closed()
        return found

    return asyncio.run(main())


def test_a_connection_is_used_again():
    with KnownServer() as server:
        found = sent_in_turn(server.url, 20)

    assert [token for token, _ in found] == list(range(20))
    assert all(reply.status == 200 for _, reply in found)
    assert server.connections == 1
    assert all(one.body == b"xy" for one in server.served)


def test_a_request_whose_connection_dies_is_not_sent_again():
    with KnownServer(Behaviour(dropped=3)) as server:
        found = sent_in_turn(server.url, 9)

    outcomes = [reply if isinstance(reply, Outcome) else reply.status for _, reply in found]
    assert outcomes == [200, 200, Outcome.DISCONNECTED] * 3
    assert len(server.predictions) == 9


def test_patience_ends():
    with KnownServer(Behaviour(silent=True)) as server:
        ((_, outcome),) = sent_in_turn(server.url, 1, timeout_s=0.05)

    assert outcome is Outcome.TIMEOUT


def test_nobody_listening_is_no_connection():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"

        ((_, outcome),) = sent_in_turn(url, 1)

    assert outcome is Outcome.CONNECT


def test_a_server_that_speaks_no_tls_is_told_apart():
    with KnownServer() as server:
        url = server.url.replace("http:", "https:")
        ((_, outcome),) = sent_in_turn(url, 1)

    assert outcome in (Outcome.TLS, Outcome.CONNECT)


CHUNKED = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 3\r\n\r\nabc"


@pytest.mark.parametrize(
    "parts",
    [
        (WHOLE,),
        tuple(WHOLE[i : i + 1] for i in range(len(WHOLE))),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE,),
        (CHUNKED + b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\nX-A: 1\r\nConnection: close\r\n\r\na", b"bc"),
        (WHOLE.replace(b"X-A", b"Connection: close\r\nx-a"),),
    ],
)
def test_answers_are_read_however_they_come(parts):
    reply = answered(*parts)

    assert isinstance(reply, Reply)
    assert (reply.status, reply.headers[b"x-a"], reply.body) == (200, b"1", b"abc")


@pytest.mark.parametrize(
    ("parts", "outcome"),
    [
        ((b"",), Outcome.DISCONNECTED),
        ((WHOLE[:-1],), Outcome.DISCONNECTED),
        ((CHUNKED + b"5\r\nab",), Outcome.DISCONNECTED),
        ((b"HTTP/1.1 200 OK\r\nX-A: 1\r\n",), Outcome.DISCONNECTED),
        ((b"\0\1\2 no HTTP\r\n\r\n",), Outcome.BAD_BODY),
    ],
)
def test_what_is_no_answer_is_told_apart(parts, outcome):
    assert answered(*parts) is outcome


def test_what_nobody_asked_for_is_no_answer_to_the_next_request():
    reply = answered(WHOLE + WHOLE.replace(b"abc", b"xyz"), close=False)

    assert isinstance(reply, Reply)
    assert reply.body == b"abc"


def test_a_header_that_comes_twice_is_one_list():
    reply = answered(WHOLE.replace(b"X-A: 1", b"Server-Timing: a;dur=1\r\nServer-Timing: b;dur=2"))

    assert reply.headers[b"server-timing"] == b"a;dur=1, b;dur=2"


def test_a_fault_of_the_caller_is_no_answer_and_is_not_passed_over():
    """A hit that nobody took down would be missing from every figure."""
    seen = []

    async def main():
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        loop.set_exception_handler(lambda _, context: (seen.append(context), told.set()))

        def done(_token, _reply):
            raise ZeroDivisionError

        with KnownServer() as server:
            pool = Pool(origin_of(server.url), 9.0, done)
            pool.send(0, (head(origin_of(server.url), "POST", "/predict", {}, 0),))
            await told.wait()
            pool.close()

    asyncio.run(main())

    error = seen[0]["exception"]
    assert isinstance(error.__context__ or error, ZeroDivisionError)


def test_abandoned_requests_are_told_once():
    async def main():
        landed = []
        with KnownServer(Behaviour(silent=True)) as server:
            pool = Pool(origin_of(server.url), 9.0, lambda *what: landed.append(what))
            for token in range(3):
                pool.send(token, (head(origin_of(server.url), "POST", "/predict", {}, 0),))
            while len(server.served) < 3:  # noqa: ASYNC110 (the server is a thread)
                await asyncio.sleep(0.01)
            pool.abandon()
            pool.close()
        await asyncio.sleep(0)
        return landed

    assert asyncio.run(main()) == [(token, Outcome.ABANDONED) for token in range(3)]
