"""Predict calls that go on while something happens, each on a connection of its own."""

import http.client
import threading
import time
from types import TracebackType
from typing import Self


class Traffic:
    """A few clients; every answer that is not 200 and every lost connection is kept."""

    def __init__(self, port: int, task: str, image: bytes, clients: int = 2) -> None:
        self.answered, self.failed = 0, []
        self._port, self._task, self._image = port, task, image
        self._over, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def await_more(self, count: int, timeout_s: float = 120) -> None:
        """Until so many further calls were answered or failed."""
        seen, deadline = self._seen(), time.monotonic() + timeout_s
        while self._seen() < seen + count:
            assert time.monotonic() < deadline, f"{self._seen() - seen} calls in {timeout_s} s"
            time.sleep(0.1)

    def _seen(self) -> int:
        return self.answered + len(self.failed)

    def _run(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            said = self._call()
            with self._lock:
                if said is None:
                    self.answered += 1
                else:
                    self.failed.append(f"{said} after {time.monotonic() - began:.1f} s")
            self._over.wait(0.02)

    def _call(self) -> str | None:
        """None, or what went wrong."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            headers = {"Content-Type": "image/bmp", "Authorization": f"Bearer {TOKEN}"}
            path = f"/v1/tasks/{self._task}:predict"
            connection.request("POST", path, self._image, headers)
            answer = connection.getresponse()
            text = answer.read(300)
            return None if answer.status == 200 else f"{answer.status} {text.decode()}"
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        finally:
            connection.close()


TOKEN = "0123456789abcdef0123456789abcdef"  # of a server that lives for a minute
