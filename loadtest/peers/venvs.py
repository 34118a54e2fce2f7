"""The environment of each peer: made with uv of pinned requirements, once. Knows no server."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from loadtest.peers.errors import PeerError

REQUIREMENTS: Final = Path(__file__).parent / "requirements"
FOLDER: Final = Path(".peers")
_PINNED: Final = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;]+)(?:\s*;.*)?")
_INSTALL_S: Final = 1800


def pins(text: str) -> dict[str, str]:
    """Version by package.

    Raises:
        PeerError: a line pins nothing exactly.
    """
    found = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = _PINNED.fullmatch(line.strip())
        if match is None:
            raise PeerError("requirements", f"{line!r} pins no exact version")
        found[match[1]] = match[2]
    return found


def python(name: str) -> Path:
    """The interpreter of a peer: this one where it has all the pins, else one made for it.

    Raises:
        PeerError: uv is missing, or cannot install.
    """
    file = REQUIREMENTS / f"{name}.txt"
    if _has(pins(file.read_text())):
        return Path(sys.executable)
    folder = FOLDER.absolute() / name
    found, ready = folder / "bin" / "python", folder / ".ready"
    proof = hashlib.sha256(file.read_bytes()).hexdigest()
    if not (ready.exists() and ready.read_text() == proof):
        uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
        if uv is None:
            raise PeerError(name, "uv is needed to make its environment")
        _run(name, [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
        _run(name, [uv, "pip", "sync", "--quiet", "--python", str(found), str(file)])
        ready.write_text(proof)
    return found


def versions(interpreter: Path, packages: Sequence[str]) -> dict[str, str]:
    """Of packages as they are installed there, and of Python.

    Raises:
        PeerError: one is not.
    """
    script = (
        "import json, platform, sys; from importlib.metadata import version; "
        "print(json.dumps({'python': platform.python_version(), "
        "**{n: version(n) for n in sys.argv[1:]}}))"
    )
    found: dict[str, str] = json.loads(
        _run("versions", [str(interpreter), "-c", script, *packages])
    )
    return found


def _has(wanted: Mapping[str, str]) -> bool:
    """Whether this interpreter has exactly these packages."""
    try:
        return all(metadata.version(name) == version for name, version in wanted.items())
    except metadata.PackageNotFoundError:
        return False


def _run(name: str, command: Sequence[str]) -> str:
    done = subprocess.run(  # noqa: S603 (words of our own)
        command, capture_output=True, text=True, timeout=_INSTALL_S, check=False
    )
    if done.returncode:
        raise PeerError(name, done.stderr.strip()[-600:] or f"{command[0]} failed")
    return done.stdout
