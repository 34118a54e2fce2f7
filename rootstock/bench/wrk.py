"""A closed loop of clients by wrk, which takes little of the cores it shares. Knows no server."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from adapters_store.errors import RootstockError

_RATE: Final = re.compile(r"Requests/sec:\s+([\d.]+)")
_WRONG: Final = re.compile(r"(?:Non-2xx or 3xx responses: \d+|Socket errors: .+)")
# Requests are put together once, before the clock runs.
_SCRIPT: Final = """
local made, at = {{}}, 0
function init(args)
  local bodies = {{}}
  for i = 0, {pictures} - 1 do
    local file = assert(io.open("{folder}/" .. i .. ".jpg", "rb"))
    bodies[i] = file:read("*a")
    file:close()
  end
  local tasks = {{ {tasks} }}
  for i = 0, {count} - 1 do
    local path = "/v1/tasks/" .. tasks[i % #tasks + 1] .. ":predict"
    local headers = {{ ["Content-Type"] = "image/jpeg" }}
    made[i] = wrk.format("POST", path, headers, bodies[i % {pictures}])
  end
end
function request()
  at = at + 1
  return made[at % {count}]
end
"""


class WrkError(RootstockError):
    """It did not measure what it was to measure."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.said = said

    def __str__(self) -> str:
        return f"wrk: {self.said}"


def present() -> bool:
    """Whether it is installed."""
    return shutil.which("wrk") is not None


class Wrk:
    """Sends every picture to every task, in turns."""

    def __init__(self, folder: Path, names: Sequence[str], pictures: Sequence[bytes]) -> None:
        """Write script and bodies into a folder of its own."""
        folder.mkdir(parents=True)
        for number, picture in enumerate(pictures):
            (folder / f"{number}.jpg").write_bytes(picture)
        self._script = folder / "requests.lua"
        self._script.write_text(
            _SCRIPT.format(
                folder=folder,
                pictures=len(pictures),
                tasks=", ".join(f'"{name}"' for name in names),
                count=len(pictures) * len(names),
            )
        )

    def turn(self, url: str, clients: int, seconds: float) -> float:
        """Answers a second.

        Raises:
            WrkError: a request failed or was refused, so the rate would mean something else.
        """
        command = ["wrk", "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--timeout", "60s"]
        done = subprocess.run(  # noqa: S603 (a program of that name, if there is one)
            [*command, "-s", str(self._script), url], capture_output=True, text=True, check=False
        )
        rate, wrong = _RATE.search(done.stdout), _WRONG.search(done.stdout)
        if done.returncode or rate is None or wrong is not None:
            raise WrkError(wrong[0] if wrong else (done.stderr or done.stdout).strip()[-200:])
        return float(rate[1])
