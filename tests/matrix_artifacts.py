"""Every artifact that must be refused: how it is made, the status, and words of the answer.

Read by the unit tests and by `tests.bench.hardening.artifacts`. All are PUT to the task `digits`
and made from a valid LoRA artifact of that task, on whatever backbone. Sealed where the fault is
meant to lie behind the seal.
"""

from collections.abc import Callable

from tests import forge
from tests.forge import Sound, Spoil, compact, framed, header, of, offsets, table, written
from tests.matrix_manifests import COMBINED, MANIFESTS, TENSORS

TASK = "digits"
LIMIT_BYTES = 12 * 2**20  # what a server is told to read at most


def _flip(part: Callable[[Sound], int]) -> Spoil:
    def spoil(sound: Sound) -> bytes:
        spoilt = bytearray(sound.data)
        spoilt[part(sound)] ^= 1
        return bytes(spoilt)

    return spoil


def _cut(part: Callable[[Sound], int]) -> Spoil:
    return lambda s: s.data[: part(s)]


def _length(length: int) -> Spoil:
    return lambda s: length.to_bytes(8, "little") + s.data[8:]


def _raw(header: bytes | str) -> Spoil:
    return lambda _: framed(header, bytes(8))


def _many(count: int, shared_bytes: int = 0) -> Spoil:
    """A file of many tensors, of a byte each or all of them over the same bytes."""

    def spoil(sound: Sound) -> bytes:
        size = shared_bytes or 1
        begins = [0] * count if shared_bytes else range(count)
        rows = (
            f'"t{i:06}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{begin},{begin + size}]}}'
            for i, begin in enumerate(begins)
        )
        return framed("{" + ",".join(rows) + "}", bytes(shared_bytes or count))

    return spoil


def _turned(sound: Sound) -> bytes:
    rows = list(reversed(sound.tensors))
    return written(sound.manifest, rows)


def _entries_turned(sound: Sound) -> bytes:
    whole = dict(reversed(table(sound.tensors).items()))
    value = {"manifest": forge.canonical({**sound.manifest, "seal": _seal(sound)})}
    return framed(compact({"__metadata__": value, **whole}), sound.data[sound.head :])


def _metadata_last(sound: Sound) -> bytes:
    value = {"manifest": forge.canonical({**sound.manifest, "seal": _seal(sound)})}
    entries = {**table(sound.tensors), "__metadata__": value}
    return framed(compact(entries), sound.data[sound.head :])


def _seal(sound: Sound) -> str:
    return forge.seal(sound.manifest, sound.tensors)


def _unsealed(sound: Sound) -> bytes:
    return written(forge.canonical(sound.manifest), sound.tensors)


def _others_seal(sound: Sound) -> bytes:
    other = forge.seal({**sound.manifest, "task": "flowers"}, sound.tensors)
    return written(forge.canonical({**sound.manifest, "seal": other}), sound.tensors)


BYTES = of(
    422,
    ("empty", lambda _: b"", "too few"),
    ("7 bytes", _cut(lambda _: 7), "too few"),
    ("cut behind the length", _cut(lambda _: 8), "truncated"),
    ("cut in the header", _cut(lambda s: s.head // 2), "truncated"),
    ("cut in front of the tensors", _cut(lambda s: s.head), "the file is truncated", "A_q"),
    ("cut by a byte", _cut(lambda s: len(s.data) - 1), "the file is truncated"),
    ("one byte more", lambda s: s.data + b"\0", "accounts for"),
    ("a zip archive behind it", lambda s: s.data + forge.zipped(s), "accounts for"),
    ("a bit of the length", _flip(lambda _: 0), "header"),
    ("a bit of the header", _flip(lambda s: s.head - 40)),
    ("a bit of the manifest", _flip(lambda s: s.data.index(b"label 0")), "seal"),
    ("a bit of a tensor", _flip(lambda s: s.head + 100), "seal"),
    ("the last bit", _flip(lambda s: len(s.data) - 1), "seal"),
    ("a pickle", lambda s: forge.pickled(s, 4), "no safetensors"),
    ("an old pickle", lambda s: forge.pickled(s, 0), "no safetensors"),
    ("torch.save", lambda s: forge.saved(s, archive=True), "no safetensors"),
    ("torch.save of old", lambda s: forge.saved(s, archive=False), "no safetensors"),
    ("numpy.savez", forge.arrays, "no safetensors"),
    ("a zip archive", forge.zipped, "no safetensors"),
    ("a pickle as the header", lambda s: framed(forge.pickled(s, 4), b""), "not JSON"),
    ("a picture", lambda _: b"\x89PNG\r\n\x1a\n" + bytes(64), "no safetensors"),
    ("a header of 2⁶⁰ bytes", _length(2**60), "out of range"),
    ("a header of 2⁶⁴ − 1 bytes", _length(2**64 - 1), "out of range"),
    ("a header of no byte", _length(0), "not JSON"),
    ("a header up to the end", lambda s: _length(len(s.data) - 8)(s), "not JSON"),
    ("a header of 9 MiB", lambda _: framed(b" " * 9 * 2**20, b""), "at most 8388608"),
)

HEADERS = of(
    422,
    ("a list", _raw("[]"), "not a JSON object"),
    ("null", _raw("null"), "not a JSON object"),
    ("an empty object", _raw("{}"), "metadata", "head.weight is missing", "head.bias is missing"),
    ("half an object", _raw('{"a":'), "not JSON"),
    ("100 000 brackets", _raw("[" * 100_000), "not JSON"),
    ("100 000 objects in each other", _raw('{"a":' * 100_000), "not JSON"),
    ("a million brackets", _raw("[" * 1_000_000), "more parts"),
    ("8 MiB of nothing", _raw("[" + "0," * (4 * 2**20 - 8) + "0]"), "more parts"),
    ("8 MiB of one number", _raw('{"a":' + "9" * (8 * 2**20 - 16) + "}"), "not JSON"),
    ("8 MiB of decimals", _raw('{"a":0.' + "3" * (8 * 2**20 - 16) + "}"), "canonical"),
    ("10 000 tensors", _many(10_000), "more than 8192 tensors"),
    ("100 000 tensors", _many(100_000), "more parts"),
    ("8 000 tensors over the same MiB", _many(8_000, 2**20), "overlap", "and 79"),
    ("NaN", _raw('{"a":NaN}'), "NaN is not allowed"),
    ("−Infinity", _raw('{"a":-Infinity}'), "-Infinity is not allowed"),
    ("1e999", _raw('{"a":1e999}'), "canonical"),
    ("a tensor twice", _raw('{"a":1,"a":1}'), "twice"),
    ("a shape twice", header('"shape":', '"shape":[1],"shape":'), "twice"),
    ("no UTF-8", _raw(b'{"\xff":1}'), "not JSON"),
    ("an overlong slash", _raw(b'{"\xc0\xaf":1}'), "not JSON"),
    ("a byte order mark", _raw(b"\xef\xbb\xbf{}"), "not JSON"),
    ("a lone surrogate", _raw('{"\\ud800":1}'), "not JSON"),
    ("a surrogate's bytes", _raw(b'{"\xed\xa0\x80":1}'), "not JSON"),
    ("a space", header('"shape":', '"shape": '), "canonical"),
    ("an escaped letter", header('"shape"', '"sh\\u0061pe"'), "canonical"),
    ("a padding of tabs", lambda s: framed(b"{}", b"", b"\t"), "canonical"),
    ("a padding too long", lambda s: framed(b"{}" + b" " * 14, b""), "canonical"),
    ("keys in another order", header('"dtype":"F32","shape":[5]', '"shape":[5],"dtype":"F32"')),
    ("metadata of two keys", header('{"manifest":', '{"a":"b","manifest":'), "one key"),
    ("metadata of another key", header('{"manifest":', '{"manifesto":'), "one key"),
    ("metadata that is a number", _raw('{"__metadata__":1}'), "one key"),
    ("a manifest that is a number", _raw('{"__metadata__":{"manifest":1}}'), "manifest"),
    ("metadata at the end", _metadata_last, "come first"),
    ("an entry that is a list", _raw('{"a":["F32",[1],[0,4]]}'), "malformed"),
    ("an entry with another key", header('"shape":', '"evil":1,"shape":'), "malformed"),
    ("an entry without offsets", _raw('{"a":{"dtype":"F32","shape":[2]}}'), "malformed"),
    ("overlapping offsets", offsets("A_v", lambda b, e: (b - 2, e - 2)), "overlap"),
    ("the same bytes twice", offsets("A_v", lambda b, e: (0, e - b)), "overlap"),
    ("a gap", offsets("A_v", lambda b, e: (b + 2, e + 2)), "gap"),
    ("offsets behind the end", offsets("B_v", lambda b, e: (b + 2**30, e + 2**30)), "truncated"),
    ("offsets of 2⁶³", offsets("B_v", lambda b, e: (b, 2**63)), "natural numbers"),
    ("offsets of 400 digits", offsets("B_v", lambda b, e: (b, 10**400)), "natural numbers"),
    ("offsets of 5 000 digits", header("[0,", "[" + "9" * 5000 + ","), "not JSON"),
    ("negative offsets", offsets("B_v", lambda b, e: (-2, e)), "natural numbers"),
    ("offsets backwards", offsets("B_v", lambda b, e: (e, b)), "for a shape"),
    ("broken offsets", offsets("B_v", lambda b, e: (float(b), float(e))), "natural numbers"),
    ("offsets that are texts", offsets("B_v", lambda b, e: (str(b), str(e))), "natural numbers"),
    ("offsets that are true", offsets("B_v", lambda b, e: (True, True)), "natural numbers"),
    ("three offsets", offsets("B_v", lambda b, e: (b, e, e)), "natural numbers"),
    ("a size that is not the shape's", offsets("A_q", lambda b, e: (b, e - 2)), "for a shape"),
    (
        "a shape whose product overflows",
        offsets("A_q", lambda b, e: (b, e), shape=[2**39] * 8),
        "for a shape",
    ),
    ("a shape of −1", offsets("A_q", lambda b, e: (b, e), shape=[-1]), "natural numbers"),
    ("a shape of no number", offsets("A_q", lambda b, e: (b, b), shape=[0, 2**39]), "natural"),
    ("a shape of nine", offsets("A_q", lambda b, e: (b, e), shape=[1] * 9), "natural numbers"),
    ("a shape that is null", offsets("A_q", lambda b, e: (b, e), shape=None), "natural numbers"),
    ("dtype f16", offsets("A_q", lambda b, e: (b, e), dtype="f16"), "not F16, F32 or U8"),
    ("a dtype that is a list", offsets("A_q", lambda b, e: (b, e), dtype=["F16"]), "not F16"),
    ("tensors in another order", _turned, "one order"),
    ("entries in another order", _entries_turned, "overlap"),
)

TOO_LARGE = of(413, ("12 MiB and a byte", lambda _: bytes(LIMIT_BYTES + 1), "larger than"))

CASES = (*BYTES, *HEADERS, *TENSORS, *MANIFESTS, *COMBINED, *TOO_LARGE)

# Neither in a URL nor in a manifest.
TASK_NAMES = (
    "..",
    ".",
    "../digits",
    "digits/..",
    "a/b",
    "%2e%2e%2fx",
    "a\\b",
    "a b",
    "a\n",
    "digits\n",
    "a\0",
    "a\x1b[2J",
    "Digits",
    "-a",
    "a-",
    "a.",
    "_a",
    "a@1",
    "a:b",
    "a?b",
    "а",  # Cyrillic
    "ｄigits",  # fullwidth
    "di\u200dgits",  # zero width
    "di\u202egits",  # from right to left
    "e\u0301t",  # combining
    "ſ",
    "٣",
    "a" * 65,
)
ALIAS_NAMES = (*(name for name in TASK_NAMES if name != "a-"), "", "3", "a.b", "a_b", "a" * 32)
