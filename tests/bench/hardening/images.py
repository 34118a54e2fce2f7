"""Every kind of picture to a real server: what it answers, how long it takes, and the memory.

python -m tests.bench.hardening.images
"""

import io
import json
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from adapters_store.threads import wait_passively

wait_passively()

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from adapters_store import artifact, plain  # noqa: E402
from adapters_store import backbone as backbones  # noqa: E402
from adapters_store.errors import ImageInvalidError  # noqa: E402
from adapters_store.pixels import pixels  # noqa: E402
from serving.launch import Running  # noqa: E402
from tests.bench.hardening.probe import (  # noqa: E402
    Answer,
    Table,
    arguments,
    call,
    keep,
    request,
    server,
)
from tests.conftest import make_adapter  # noqa: E402
from tests.matrix_images import cases  # noqa: E402
from tests.picture_files import SCENE, chunk, png_blank, png_of, saved, scans  # noqa: E402

URL = "/v1/tasks/digits:predict"
SIDE = 7000  # a little below the limit of fifty million pixels
BODY_BYTES = 10 * 2**20
Wanted = Callable[[bytes], np.ndarray | None]  # probabilities; None: refused


def main() -> None:
    """One server, all pictures, one after the other."""
    given = arguments("images", __doc__).parse_args()
    began = time.monotonic()
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "131072"  # what is freed goes back at once: true peaks
    backbone = backbones.load()
    adapter = make_adapter(backbone)

    def wanted(data: bytes) -> np.ndarray | None:
        try:
            picture = pixels(data, adapter.manifest.preprocess)
        except ImageInvalidError:
            return None
        return odds(plain.logits(backbone, adapter, picture[None])[0])

    with (
        tempfile.TemporaryDirectory(prefix="images-") as folder,
        server(store=f"file://{folder}") as running,
    ):
        assert request(running, "PUT", "/v1/tasks/digits", artifact.write(adapter))[0] == 201
        ordinary = saved(SCENE, "PNG")
        for _ in range(5):
            predict(running, ordinary)
        tables = [small(running, wanted), large(running, wanted), wrapped(running, wanted)]
        after = verdict(predict(running, ordinary), wanted(ordinary))
    tables[-1].rows.append(("an ordinary picture, after all of these", len(ordinary), *after))
    keep(given.out, "images", tables, time.monotonic() - began)


def odds(logits: np.ndarray) -> np.ndarray:
    """Probabilities."""
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return powers / powers.sum()


def predict(running: Running, body: Any, kind: str | None = "image/jpeg") -> Answer:
    """One prediction, or none."""
    headers = {} if kind is None else {"Content-Type": kind}
    return call(running, "POST", URL, body, headers)


def verdict(answer: Answer, wanted: np.ndarray | None) -> tuple[int, str, float, float]:
    """Status, what it says, milliseconds, MiB; and whether a prediction is right."""
    said = answer.said[:140]
    if answer.status == 200 and wanted is None:
        said = "ANSWERED what the slow path refuses"
    elif answer.status == 200 and wanted is not None:
        given = {p["index"]: p["probability"] for p in json.loads(answer.body)["predictions"]}
        off = max(abs(wanted[i] - p) for i, p in given.items())
        said += ", as by the slow path" if off < 1e-4 else f", WRONG by {off:.3f}"
    elif wanted is not None:
        said = f"REFUSED: {said}"
    return answer.status, said, round(answer.ms, 1), round(answer.peak_mib, 1)


COLUMNS = ("input", "bytes", "answer", "what it says", "ms", "peak MiB")


def small(running: Running, wanted: Wanted) -> Table:
    """The matrix."""
    rows = [
        (
            case.name,
            len(case.data),
            *verdict(predict(running, case.data, case.kind), wanted(case.data)),
        )
        for case in cases()
    ]
    return Table(
        title="Images",
        text=(
            "Each file of `tests/matrix_images.py` to a server of one replica with an adapter on "
            "the bundled backbone. An answer is right if its probabilities are those of the slow "
            "path (`adapters_store.plain`) on the pixels that training reads. Memory is what the "
            "replica had at most beyond what it had before."
        ),
        columns=COLUMNS,
        rows=list(rows),
    )


def large(running: Running, wanted: Wanted) -> Table:
    """What costs most while it is still answered, and what asks for more."""
    rows = []
    for name, make in COSTLY.items():
        data = make()
        assert len(data) <= BODY_BYTES, name
        rows.append((name, len(data), *verdict(predict(running, data), wanted(data))))
    return Table(
        title="Images at the limits",
        text=(
            f"Pictures of {SIDE}x{SIDE} pixels (at most 50 million are decoded; the promise is 16 "
            "bytes for each, 763 MiB, and 32 bytes for each byte of the file), and files of up to "
            "10 MiB that would make a decoder work long. On the same server."
        ),
        columns=COLUMNS,
        rows=rows,
    )


def wrapped(running: Running, wanted: Wanted) -> Table:
    """Content types and bodies."""
    jpeg = saved(SCENE, "JPEG")
    right = wanted(jpeg)
    rows: list[tuple[Any, ...]] = []

    def add(name: str, size: int, answer: Answer, expected: np.ndarray | None) -> None:
        rows.append((name, size, *verdict(answer, expected)))

    for kind in ("image/png", "application/octet-stream", "image/svg+xml", None):
        shown = kind or "none"
        add(f"JPEG, content type {shown}", len(jpeg), predict(running, jpeg, kind), right)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "video/mp4"):
        add(f"JPEG, content type {kind}", len(jpeg), predict(running, jpeg, kind), None)
    pieces = (jpeg[i : i + 500] for i in range(0, len(jpeg), 500))
    add("JPEG in chunks, without a length", len(jpeg), predict(running, pieces), right)
    over = BODY_BYTES + 1
    add("one byte more than 10 MiB", over, predict(running, bytes(over)), None)
    add("12 MiB in chunks, without a length", 12 * 2**20, predict(running, endless(12)), None)
    add("1 GiB in chunks, without a length", 2**30, predict(running, endless(1024)), None)
    for name, body, kind in (
        (
            "JSON, base64 with a data: prefix",
            b'{"image": "data:image/jpeg;base64,AAAA"}',
            "application/json",
        ),
        ("JSON, cut off", b'{"image": "AAAA', "application/json"),
        ("JSON, base64 of no picture", b'{"image": "AAAA"}', "application/json"),
        ("form without a boundary", jpeg, "multipart/form-data"),
        ("form that is cut off", b"--y\r\n\r\n" + jpeg, "multipart/form-data; boundary=y"),
    ):
        add(name, len(body), predict(running, body, kind), None)
    return Table(
        title="Bodies and content types",
        text=(
            "On the same server, last an ordinary picture once more. Answer 0: the connection was "
            "closed without one."
        ),
        columns=COLUMNS,
        rows=rows,
    )


def endless(mebibytes: int) -> Iterator[bytes]:
    """A body that says no length."""
    for _ in range(mebibytes):
        yield bytes(2**20)


def _colour(mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), (9, 99, 200)).convert(mode)


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _photograph() -> bytes:
    """As many pixels of noise as a body holds."""
    noise = np.random.default_rng(0).integers(0, 256, (1800, 1800, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG", compress_level=1)
    return file.getvalue()


_PROFILE = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**20 - 64), 9))
_DEEP = np.full((SIDE, SIDE), 128, np.uint8)

COSTLY: dict[str, Callable[[], bytes]] = {
    "PNG, noise of 1800x1800": _photograph,
    "JPEG": lambda: saved(_colour(), "JPEG"),
    "JPEG, orientation 6": lambda: saved(_colour(), "JPEG", exif=_turned()),
    "JPEG, progressive 4:4:4": lambda: saved(_colour(), "JPEG", progressive=True, subsampling=0),
    "JPEG, progressive CMYK": lambda: saved(_colour("CMYK"), "JPEG", progressive=True),
    "JPEG, progressive, 95 scans": lambda: scans(_DEEP, 85),
    "JPEG, progressive, 100000 scans": lambda: scans(_DEEP, 100_000),
    "PNG, 1 bit, 8000x6250": lambda: png_blank((8000, 6250)),
    "PNG, RGBA": lambda: png_blank((SIDE, SIDE), 8, 6),
    "PNG, 16-bit RGBA": lambda: png_blank((SIDE, SIDE), 16, 6),
    "PNG, 16-bit greyscale": lambda: png_blank((SIDE, SIDE), 16, 0),
    "PNG, 65535x762": lambda: png_blank((65_535, 762)),
    "PNG, 299 profiles of 1 MiB": lambda: png_of(SCENE, 8, 2, _PROFILE * 299),
    "PNG, 9000 profiles of 1 MiB": lambda: png_of(SCENE, 8, 2, _PROFILE * 9000),
    "GIF": lambda: saved(_colour("P"), "GIF"),
    "GIF, 10 MB of comments": lambda: (
        b"GIF89a\x08\0\x08\0\0\0\0!\xfe" + b"\2ab" * 3_400_000 + b"\0"
    ),
    "WEBP": lambda: saved(_colour(), "WEBP", method=0),
    "WEBP, lossless RGBA": lambda: saved(_colour("RGBA"), "WEBP", lossless=True, method=0),
    "BMP, 1 bit": lambda: saved(_colour("1"), "BMP"),
    "TIFF, RGBA, deflate": lambda: saved(_colour("RGBA"), "TIFF", compression="tiff_adobe_deflate"),
    "TIFF, JPEG inside": lambda: saved(_colour(), "TIFF", compression="jpeg"),
    "PPM, 10 MB of comment": lambda: b"P6\n#" + b"a" * 10_000_000,
}


if __name__ == "__main__":
    main()
