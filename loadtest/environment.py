"""Where and by what a run was measured. Knows no secret: of commands and headers only the names."""

import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from loadtest.scenario import Scenario

_SECRET: Final = re.compile(r"(?i)token|key|secret|password|authorization|headers")
_LIBRARIES: Final = ("rootstock", "uvloop", "httptools", "numpy")
HIDDEN: Final = "…"


def environment() -> dict[str, Any]:
    """Machine, versions, commit and command line."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _LIBRARIES},
        "commit": _commit(),
        "command": _command(sys.argv),
    }


def published(scenario: Scenario) -> dict[str, Any]:
    """The scenario as it may be written down: values of headers are left out."""
    value = scenario.model_dump(mode="json")
    value["target"]["headers"] = dict.fromkeys(scenario.target.headers, HIDDEN)
    value["target"]["url"] = re.sub(r"//[^/@]*@", "//", scenario.target.url)
    return value


def _command(words: list[str]) -> list[str]:
    found, hide = [Path(words[0]).name if words else ""], False
    for word in words[1:]:
        secret = _SECRET.search(word)
        equals = word.find("=", secret.start()) if secret else -1
        if hide:
            found.append(HIDDEN)
        elif equals >= 0:
            found.append(f"{word[:equals]}={HIDDEN}")
        else:
            found.append(re.sub(r"//[^/@]*@", "//", word))
        hide = secret is not None and equals < 0 and word.startswith("-")
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of the checkout that this file lies in; None for an installed package."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(  # noqa: S603 (words of our own)
            ["git", "-C", str(root), "describe", "--always", "--dirty"],  # noqa: S607 (whichever git there is)
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
