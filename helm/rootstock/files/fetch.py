"""Before an engine starts: bring the backbone's weights from the store into a file.

fetch.py STORE OBJECT FILE
"""
# ruff: noqa: INP001 (mounted as one file)

import sys
from pathlib import Path

from adapters_store.objects import Objects

MOST_BYTES = 16 * 2**30


def main() -> None:
    """Write the file whole, or fail in one line."""
    store, name, file = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    data = Objects.open(store).get(name, MOST_BYTES)
    if data is None:
        sys.exit(f"{store} has no object {name}")
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.part")
    aside.write_bytes(data)
    aside.replace(file)


if __name__ == "__main__":
    main()
