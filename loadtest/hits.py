"""What came of every request, as columns; in a file with a header that says how it was measured.

The file is a zip of numpy arrays (`.npz`, no pickle) whose array `header` is UTF-8 JSON: numpy
alone reads it, at about 30 bytes a hit.
"""

import json
import struct
import zipfile
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from loadtest.errors import HitsError

FORMAT: Final = "rootstock-hits/1"
_STAGE: Final = "stage_"
# One array alone, as `np.save` writes it, is no context. A broken zip may name any method.
_UNREADABLE: Final = (
    ValueError,
    LookupError,
    EOFError,
    TypeError,
    AttributeError,
    RuntimeError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
# What a report cannot do without.
_KNOWN: Final = frozenset(
    (
        *("began", "interrupted", "planned", "learned", "scenario", "environment", "server"),
        *("tasks", "tasks_known", "tasks_effective", "images", "image_bytes_mean"),
        *("clients", "changes"),
    )
)
# Instants are seconds from the start of the run.
COLUMNS: Final[Mapping[str, str]] = {
    "row": "q",  # of the plan
    "scheduled": "d",
    "sent": "d",  # NaN: never
    "done": "d",  # NaN: never
    "status": "h",  # 0: no answer
    "outcome": "b",
    "wrong": "b",
    "received": "i",  # bytes of the answer's body
    "retry_after": "f",  # seconds that the server asked to wait; NaN: did not
}
_TYPES: Final = {
    "q": np.int64,
    "d": np.float64,
    "h": np.int16,
    "b": np.int8,
    "i": np.int32,
    "f": np.float32,
}

Column = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Hits:
    """Columns of equal length, ordered by `scheduled`, and what is known of the run."""

    header: dict[str, Any]
    columns: dict[str, Column]  # those of COLUMNS, `tasks` [n, fan_out], `image`, `worker`
    stages: dict[str, Column]  # milliseconds that the server says it took, by stage; NaN: did not

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.columns["row"])

    def where(self, chosen: NDArray[np.bool_]) -> "Hits":
        """Some of them."""
        return replace(
            self,
            columns={name: column[chosen] for name, column in self.columns.items()},
            stages={name: column[chosen] for name, column in self.stages.items()},
        )


class Recorder:
    """Takes down hits of one process; a row costs about a microsecond."""

    def __init__(self) -> None:
        self._columns = {name: array(kind) for name, kind in COLUMNS.items()}
        self._appends = [column.append for column in self._columns.values()]
        self._stages: dict[str, array[float]] = {}
        self.count = 0

    def note(self, *values: float) -> None:
        """One hit, in the order of COLUMNS."""
        for append, value in zip(self._appends, values, strict=True):
            append(value)  # type: ignore[arg-type]
        self.count += 1

    def note_stages(self, stages: Sequence[tuple[str, float]]) -> None:
        """What the server said of the hit that was noted last."""
        for name, milliseconds in stages:
            column = self._stages.get(name)
            if column is None:
                column = self._stages[name] = array("f")
            missing = self.count - 1 - len(column)
            if missing > 0:
                column.extend([float("nan")] * missing)
            column.append(milliseconds)

    def columns(self) -> dict[str, Column]:
        """Everything so far; stages by their prefix."""
        found: dict[str, Column] = {
            name: np.frombuffer(column, _TYPES[column.typecode])
            if column
            else np.empty(0, _TYPES[column.typecode])
            for name, column in self._columns.items()
        }
        for name, stage in self._stages.items():
            missing = [float("nan")] * (self.count - len(stage))
            found[_STAGE + name] = np.array([*stage, *missing], np.float32)
        return found


def merged(
    parts: Sequence[Mapping[str, Column]],
    tasks: NDArray[np.int32],
    image: NDArray[np.int32],
    header: dict[str, Any],
) -> Hits:
    """Hits of several processes as one run's.

    Args:
        parts: of `Recorder.columns`, in the order of the processes.
        tasks: of the plan's rows, [n, fan_out].
        image: of the plan's rows.
        header: what is known of the run.
    """
    columns: dict[str, Column] = {
        name: np.concatenate([part[name] for part in parts]) for name in COLUMNS
    }
    sizes = [len(part["row"]) for part in parts]
    columns["worker"] = np.repeat(np.arange(len(parts)), sizes).astype(np.int16)
    stages = {
        name: np.concatenate(
            [
                part[name] if name in part else np.full(size, np.nan, np.float32)
                for part, size in zip(parts, sizes, strict=True)
            ]
        )
        for name in sorted({n for part in parts for n in part if n.startswith(_STAGE)})
    }
    order = np.argsort(columns["scheduled"], kind="stable")
    columns = {name: column[order] for name, column in columns.items()}
    rows = columns["row"] % max(len(image), 1)  # a closed loop goes round
    columns["tasks"], columns["image"] = tasks[rows], image[rows]
    stages = {name.removeprefix(_STAGE): column[order] for name, column in stages.items()}
    return Hits(header, columns, stages)


def write(hits: Hits, file: Path) -> None:
    """Into a file, whole or not at all.

    Raises:
        OSError
    """
    text = json.dumps({"format": FORMAT, **hits.header}, ensure_ascii=False).encode()
    stages = {_STAGE + name: column for name, column in hits.stages.items()}
    part = file.with_name(f".{file.name}.part")
    with part.open("wb") as handle:
        header = np.frombuffer(text, np.uint8)
        np.savez_compressed(handle, header=header, **hits.columns, **stages)  # type: ignore[arg-type]
    part.replace(file)


def read(file: Path) -> Hits:
    """Of a file.

    Raises:
        HitsError: it holds none, or is of another format.
        OSError
    """
    try:
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
        header = json.loads(arrays.pop("header").tobytes())
        form = header.pop("format", None)
    except _UNREADABLE:
        raise HitsError(str(file), "it holds no hits") from None
    if form != FORMAT:
        raise HitsError(str(file), f"it is not of the format {FORMAT}")
    missing = {*COLUMNS, "tasks", "image", "worker"} - arrays.keys() | _KNOWN - header.keys()
    if missing:
        raise HitsError(str(file), f"it lacks {', '.join(sorted(missing))}")
    if len({len(array) if array.ndim else -1 for array in arrays.values()}) > 1:
        raise HitsError(str(file), "its columns are not equally long")
    stages = {n.removeprefix(_STAGE): a for n, a in arrays.items() if n.startswith(_STAGE)}
    columns = {name: a for name, a in arrays.items() if not name.startswith(_STAGE)}
    return Hits(header, columns, stages)
