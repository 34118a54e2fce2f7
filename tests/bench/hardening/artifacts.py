"""Every bad artifact of the matrix, sent to a real server: what it answers, and what that costs.

python -m tests.bench.hardening.artifacts
"""

import tempfile
import time
from pathlib import Path

from adapters_store import artifact, backbone
from adapters_store.store import AdapterStore
from tests import forge
from tests.bench.hardening import probe
from tests.conftest import make_adapter
from tests.matrix_artifacts import CASES, LIMIT_BYTES, TASK

SAID = 120  # characters of an answer that the table shows


def main() -> None:
    """Start, publish, send every case, compare the store."""
    options = probe.arguments("artifacts", __doc__).parse_args()
    began = time.perf_counter()
    nano = backbone.load()
    first = artifact.write(make_adapter(nano, "alore", TASK))
    rows: list[tuple[str | int | float, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "store")
        sound = forge.opened(artifact.write(make_adapter(nano, "lora", TASK)), Path(folder, "trap"))
        with probe.server(store=str(store), artifact_bytes=LIMIT_BYTES) as running:
            path = f"/v1/tasks/{TASK}"
            for _ in range(3):  # the first of each kind is slower than those that follow
                warm = probe.call(running, "PUT", path, first)
                probe.call(running, "PUT", path, sound.data[:-1])
            assert warm.status == 200, warm
            before = objects(store)
            for case in CASES:
                data = case.spoil(sound)
                answer = probe.call(running, "PUT", path, data)
                row = (case.name, len(data), answer.status, answer.said[:SAID])
                rows.append((*row, round(answer.ms, 1), round(answer.peak_mib, 1)))
                assert answer.status == case.status, (case.name, answer)
                assert all(word in answer.said for word in case.words), (case.name, answer.said)
            assert objects(store) == before
            assert not sound.trap.exists()
            generation = AdapterStore.open(str(store), nano.spec.ref.digest).catalog().generation
            good = probe.call(running, "PUT", path, sound.data)
            assert good.status == 201, good
    text = (
        f"{len(rows)} artifacts, each PUT to a server of one replica on the nano backbone and "
        f"compared with what must be said. The store's {len(before)} objects were compared byte "
        f"by byte before and after and were the same, at generation {generation}; no pickle was "
        f"loaded; the server then took a valid artifact in {good.ms:.0f} ms. Peak is the replica's "
        "memory beyond what it held before the call; the body itself is part of it."
    )
    columns = ("input", "bytes", "answer", "what it says", "ms", "peak MiB")
    table = probe.Table("Artifacts that must be refused", text, columns, rows)
    probe.keep(options.out, "artifacts", [table], time.perf_counter() - began)


def objects(folder: Path) -> dict[Path, bytes]:
    """Every object of a store."""
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


if __name__ == "__main__":
    main()
