"""The Python client: HTTP only. Knows no tensor and imports nothing of the server's."""

import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import httpx2 as httpx

_WAIT_MAX_S: Final = 2.0
_AGAIN: Final = frozenset({500, 502, 503, 504})


class RootstockHTTPError(Exception):
    """The server refused; `problem` is its problem document."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(status, problem)
        self.status, self.problem = status, problem

    def __str__(self) -> str:
        faults = "".join(f"\n  - {fault}" for fault in self.problem.get("faults", ()))
        return f"{self.status}: {self.problem.get('detail', 'no detail')}{faults}"


class Client:
    """Talks to one server. A context manager; one instance may be shared by threads.

    >>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
    ...     client.predict("digits", "seven.png")["predictions"][0]["label"]
    '7'
    """

    def __init__(self, url: str, token: str | None = None, timeout_s: float = 30.0) -> None:
        """Nothing is sent yet.

        Args:
            url: of the server, such as http://127.0.0.1:8000.
            token: sent as a bearer token.
            timeout_s: for each attempt.
        """
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)

    def __enter__(self) -> Self:
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close its connections."""
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def predict(
        self,
        task: str,
        image: bytes | str | Path,
        *,
        top_k: int = 5,
        min_generation: int | None = None,
        deadline_ms: float | None = None,
        route_key: str | None = None,
    ) -> dict[str, Any]:
        """Classify one image, given as bytes or as a file.

        Raises:
            RootstockHTTPError: refused.
            httpx2.TransportError: no answer, twice.
        """
        data = image if isinstance(image, bytes) else Path(image).read_bytes()
        headers = {"Content-Type": "application/octet-stream"}
        if min_generation is not None:
            headers["X-Min-Generation"] = str(min_generation)
        if deadline_ms is not None:
            headers["X-Request-Deadline-Ms"] = str(deadline_ms)
        if route_key is not None:
            headers["X-Route-Key"] = route_key
        path = f"/v1/tasks/{task}:predict"
        return self._send("POST", path, content=data, headers=headers, params={"top_k": top_k})

    def tasks(self) -> list[dict[str, Any]]:
        """Every task, all pages."""
        items: list[dict[str, Any]] = []
        page = ""
        while True:
            answer = self._send("GET", "/v1/tasks", params={"page": page, "limit": 1000})
            items += answer["items"]
            if answer["next"] is None:
                return items
            page = answer["next"]

    def task(self, task: str) -> dict[str, Any]:
        """One task: labels, releases, aliases, what each replica answers with."""
        return self._send("GET", f"/v1/tasks/{task}")

    def publish(
        self, task: str, artifact: bytes | str | Path, *, activate: bool = True, wait: bool = False
    ) -> dict[str, Any]:
        """Publish an artifact as a release of the task.

        Raises:
            RootstockHTTPError: refused, every fault listed.
        """
        data = artifact if isinstance(artifact, bytes) else Path(artifact).read_bytes()
        return self._send(
            "PUT",
            f"/v1/tasks/{task}",
            content=data,
            headers={"Content-Type": "application/octet-stream"},
            params={"activate": activate, "wait": wait},
        )

    def activate(self, task: str, release: int) -> int:
        """Let a release answer for its task; returns the generation."""
        answer = self._send("POST", f"/v1/tasks/{task}:activate", json={"release": release})
        return int(answer["generation"])

    def ready(self) -> bool:
        """Whether the server answers and is ready."""
        try:
            return self._http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def _send(self, method: str, path: str, **what: Any) -> dict[str, Any]:
        """Once more, and no oftener, after a lost connection or a 5xx: a replica may have died."""
        try:
            response = self._http.request(method, path, **what)
        except httpx.TransportError:
            response = None
        if response is None or response.status_code in _AGAIN:
            asked = "0" if response is None else response.headers.get("Retry-After", "0")
            wait_s = float(asked) if asked.isdecimal() else 0.0
            time.sleep(min(wait_s, _WAIT_MAX_S) + random.uniform(0.05, 0.2))  # noqa: S311 (jitter)
            response = self._http.request(method, path, **what)
        if response.is_success:
            value: dict[str, Any] = response.json()
            return value
        try:
            problem = response.json()
        except ValueError:
            problem = {"detail": response.text[:200] or "no answer body"}
        raise RootstockHTTPError(response.status_code, problem)
