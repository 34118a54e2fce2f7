"""What is measured already, a file a system, so that a lost run need not start over."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Part = dict[str, Any]  # key, system, versions, tuning, settings, rounds


def held(folder: Path, name: str, key: Mapping[str, Any]) -> Part:
    """What is known of a system under the same conditions; an empty part else."""
    try:
        found: Part = json.loads((folder / f"{name}.json").read_text())
    except (OSError, ValueError):
        found = {}
    if found.get("key") == dict(key):
        return found
    return {"key": dict(key), "system": name, "tuning": [], "rounds": []}


def keep(folder: Path, part: Part) -> None:
    """Write it, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{part['system']}.json"
    half = file.with_suffix(".part")
    half.write_text(json.dumps(part, indent=1) + "\n")
    half.replace(file)
