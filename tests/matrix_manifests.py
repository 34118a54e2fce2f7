"""Artifacts whose tensors or manifest must be refused, alone and together.

Part of the table in `matrix_artifacts.py`, which says how to read it.
"""

from tests import forge
from tests.forge import (
    Sound,
    chain,
    extra,
    manifest,
    number,
    of,
    tensor,
    text,
    values,
    without,
    written,
)


def _unsealed(sound: Sound) -> bytes:
    return written(forge.canonical(sound.manifest), sound.tensors)


def _number_seal(sound: Sound) -> bytes:
    return written(forge.canonical({**sound.manifest, "seal": 1}), sound.tensors)


def _others_seal(sound: Sound) -> bytes:
    other = forge.seal({**sound.manifest, "task": "flowers"}, sound.tensors)
    return written(forge.canonical({**sound.manifest, "seal": other}), sound.tensors)


TENSORS = (
    *of(
        422,
        ("NaN in a factor", number("A_q", float("nan")), "A_q' holds NaN"),
        ("∞ in a factor", number("B_v", float("inf")), "B_v' holds NaN or infinite"),
        ("−∞ in the head", number("head.weight", float("-inf")), "head.weight' holds NaN"),
        ("NaN in the bias", number("head.bias", float("nan")), "head.bias' holds NaN"),
        ("a factor in F64", values("A_q", "F64", (8, 4)), "dtype 'F64'"),
        ("a factor in BF16", values("A_q", "BF16", (8, 4)), "dtype 'BF16'"),
        ("a factor in I64", values("A_q", "I64", (8, 4)), "dtype 'I64'"),
        ("a factor in BOOL", values("A_q", "BOOL", (8, 4)), "dtype 'BOOL'"),
        ("a factor in U8", values("A_q", "U8", (8, 4)), "has dtype uint8"),
        ("a head in F16", values("head.weight", "F16", (5, 4)), "not an F32 matrix"),
        ("a flat head", values("head.weight", "F32", (20,)), "not an F32 matrix"),
        ("a head of 6 rows", values("head.weight", "F32", (6, 4)), "6 rows for 5 labels"),
        ("a bias of 4", values("head.bias", "F32", (4,)), "4 numbers for 5 labels"),
        ("a bias in rows", values("head.bias", "F32", (5, 1)), "not an F32 vector"),
        ("no bias", without("head.bias"), "head.bias is missing"),
        ("no head", without("head.weight"), "head.weight is missing"),
        ("a factor missing", without("0.attn.qkv.A_q"), "blocks.0.attn.qkv.A_q' is missing"),
        ("every factor missing", without("_q"), "0.attn.qkv.A_q' is", "1.attn.qkv.B_q' is"),
        ("a tensor more", extra("blocks.0.attn.qkv.C_q"), "C_q' is not one of method 'lora'"),
        ("a head more", extra("head.scale"), "head.scale' is not one of method"),
        ("a whole layer", extra("blocks.0.attn.qkv.weight"), "is not one of method"),
        ("1 000 tensors more", extra(*(f"t{i}" for i in range(1000))), "t0'", "and 950 more"),
        ("a tensor ../../etc", extra("../../etc/passwd"), "no tensor has such a name"),
        ("a tensor without name", extra(""), "no tensor has such a name"),
        ("a tensor with NUL", extra("a\0b"), "'a\\x00b'", "no tensor has such a name"),
        ("a tensor with ESC", extra("\x1b[2Ja"), "no tensor has such a name"),
        ("a tensor on two lines", extra("head.bias\n"), "no tensor has such a name"),
        ("a tensor from right to left", extra("a\u202eb"), "no tensor has such a name"),
        ("a tensor in Cyrillic", extra("he\u0430d.weight"), "'he\\u0430d.weight': no tensor"),
        ("a name of 100 000 letters", extra("x" * 100_000), "no tensor has such a name"),
    ),
    *of(
        409,
        ("a factor turned over", tensor("A_q", shape=lambda t: t.shape[::-1]), "has shape"),
        ("a factor of rank 4", values("A_q", "F16", (4, 48)), "has shape (4, 48), not (8,"),
        ("a factor of one number", values("A_q", "F16", ()), "has shape ()"),
        ("a head for other features", values("head.weight", "F32", (5, 7)), "reads 7 features"),
    ),
)

MANIFESTS = (
    *of(
        422,
        ("no JSON", lambda s: written("{", s.tensors), "manifest: "),
        ("a list as manifest", lambda s: written("[]", s.tensors), "not a JSON object"),
        ("an empty manifest", lambda s: written("{}", s.tensors), "task: Field required", "labels"),
        ("a deep manifest", lambda s: written("[" * 50_000, s.tensors), "manifest: "),
        ("deep options", manifest(options={"rank": [[[[[[[[1]]]]]]]]}), "too deep"),
        ("NaN in a manifest", text('"seed":0', '"seed":NaN'), "NaN is not allowed"),
        ("1e999 in a manifest", text('"seed":0', '"seed":1e999'), "JSON compliant"),
        ("a key twice", text('"seed":0', '"seed":0,"seed":0'), "twice"),
        ("a lone surrogate in it", text("label 0", "\\ud800"), "unicode"),
        ("an escape in it", text("label 0", "label\\u00200"), "canonical"),
        ("a space in it", text('"seed":0', '"seed": 0'), "canonical"),
        ("a number as text", text('"seed":0', '"seed":"0"'), "canonical"),
        ("a number as 0.0", text('"seed":0', '"seed":0.0'), "canonical"),
        ("a default left out", text('"metrics":{},', ""), "canonical"),
        ("no seal", _unsealed, "seal"),
        ("another's seal", _others_seal, "the seal does not match"),
        ("a seal that is a number", _number_seal, "the seal does not match"),
        ("an unknown key", manifest(pickle="gASV"), "pickle: Extra inputs"),
        ("an unknown key with ESC", manifest(**{"\x1b[2J": 1}), "'manifest.\\x1b[2J': Extra"),
        ("300 unknown keys", manifest(**{f"k{i}": 1 for i in range(300)}), "more than 256 keys"),
        (
            "a recipe of 30 000 lines",
            manifest(provenance__recipe={str(i): [] for i in range(30_000)}),
            "more than 256 keys",
        ),
        ("no task", manifest(task=...), "task: Field required"),
        ("format 2", manifest(format=2), "format"),
        ("a time", manifest(provenance__at="2026-01-01"), "provenance.at: Extra inputs"),
        ("an unknown method", manifest(method="magic"), "unknown method 'magic'; known: "),
        ("a method of a megabyte", manifest(method="m" * 2**20), "method: String should have"),
        ("another method", manifest(method="alore", options={}), "U' is missing", "not one of"),
        ("an unknown option", manifest(options__depth=1), "option depth: Extra inputs"),
        ("an option out of range", manifest(options__rank=10**6), "option rank"),
        ("an option with ESC", manifest(options__variant="\x1b[2J"), "cannot be printed"),
        ("an option of 5 000 digits", manifest(options__rank="9" * 5000), "options.rank"),
        ("an option that is an object", manifest(options__rank={"a": 1}), "option rank: Input"),
        ("an option that is not one", manifest(options__variant="kqv"), "option variant"),
        ("a backbone of the hub", manifest(backbone__name="hf-hub:evil/x"), "backbone.name"),
        ("a backbone in a folder", manifest(backbone__name="local-dir:/etc"), "backbone.name"),
        ("a backbone ending in \\n", manifest(backbone__name="vit_tiny\n"), "backbone.name"),
        ("a digest that is none", manifest(backbone__digest="AB" * 32), "backbone.digest"),
        ("a checkpoint", manifest(backbone__kwargs={"checkpoint_path": "/x"}), "kwargs"),
        ("a backbone of 64 000 blocks", manifest(backbone__kwargs={"depth": 64_000}), "depth"),
        ("a picture of no pixel", manifest(preprocess__size=[0, 0]), "preprocess.size"),
        ("a picture of 10⁹ rows", manifest(preprocess__size=[10**9, 1]), "preprocess.size"),
        ("another geometry", manifest(preprocess__geometry="pad"), "geometry"),
        ("a crop of 10⁻⁹", manifest(preprocess__crop_pct=1e-9), "crop_pct"),
        ("a deviation of 0", manifest(preprocess__std=[0, 1, 1]), "std.0"),
        ("a deviation of 10⁻³⁰⁰", manifest(preprocess__std=[1e-300, 1, 1]), "std.0"),
        ("a mean of 10³⁰⁰", manifest(preprocess__mean=[1e300, 0, 0]), "mean.0"),
        ("no label", manifest(labels=[]), "labels: Tuple should have at least 1"),
        ("50 001 labels", manifest(labels=[f"{i}" for i in range(50_001)]), "at most 50000"),
        ("50 000 bad labels", manifest(labels=[""] * 50_000), "those at 0, 1, 2", "and 49980 more"),
        ("a label more", manifest(labels=lambda a: [*a, "more"]), "5 rows for 6 labels"),
        ("an empty label", manifest(labels=lambda a: ["", *a[1:]]), "those at 0 are not"),
        (
            "a label of 201 letters",
            manifest(labels=lambda a: ["x" * 201, *a[1:]]),
            "those at 0 are not",
        ),
        ("a label with ESC", manifest(labels=lambda a: ["\x1b[2J", *a[1:]]), "those at 0 are"),
        ("a label on two lines", manifest(labels=lambda a: ["a\n", *a[1:]]), "those at 0 are"),
        ("a label backwards", manifest(labels=lambda a: ["\u202ea", *a[1:]]), "those at 0 are"),
        ("a label of no width", manifest(labels=lambda a: ["\u200d", *a[1:]]), "those at 0 are"),
        ("a label twice", manifest(labels=lambda a: [a[1], *a[1:]]), "two labels are the same"),
        ("a label that is a number", manifest(labels=lambda a: [7, *a[1:]]), "labels.0"),
        ("a metric with ESC", manifest(metrics={"\x1b": 1.0}), "cannot be printed"),
        ("no effect", manifest(effect=None), "no effect record"),
        ("effects of another set", manifest(effect__golden=2), "effect.golden"),
        ("an effect of no row", manifest(effect__logits=[]), "the record has shape"),
        ("a ragged effect", manifest(effect__logits=lambda a: [*a[1:], [1.0]]), "several lengths"),
        ("an effect for other labels", manifest(effect__logits=[[1.0]] * 4), "one a label"),
        ("50 000 bad effects", manifest(effect__logits=[["x"] * 50_000] * 4), "effect.logits.0.0"),
        ("another effect", manifest(effect__logits=[[1.0] * 5] * 4), "other logits than recorded"),
        ("an effect of 10³⁰⁰", manifest(effect__logits=[[1e300] * 5] * 4), "no logit can have"),
    ),
    *of(
        409,
        ("another task", manifest(task="flowers"), "'flowers', not 'digits'"),
        ("another backbone", manifest(backbone__digest="ab" * 32), "made for", "abababababababab"),
        ("another input size", manifest(preprocess__size=[48, 40]), "input 48x40"),
        (
            "another backbone and size",
            manifest(backbone__digest="ab" * 32, preprocess__size=[48, 40]),
            "abababababababab, input 48x40",
        ),
    ),
)

COMBINED = (
    *of(
        422,
        (
            "NaN, a factor missing, a tensor more, another task, size and shape",
            chain(
                manifest(task="flowers", preprocess__size=[48, 40]),
                number("A_v", float("nan")),
                without("1.attn.qkv.B_q"),
                extra("evil"),
                values("head.weight", "F32", (5, 7)),
            ),
            "A_v' holds NaN",
            "1.attn.qkv.B_q' is missing",
            "'evil' is not one of method",
            "'flowers', not 'digits'",
            "input 48x40",
            "reads 7 features",
        ),
        (
            "a bad name, two bad labels, a bad mean and a head of 6 rows",
            chain(
                values("head.weight", "F32", (6, 4)),
                manifest(
                    task="../x",
                    labels=lambda a: ["", "\n", *a[2:]],
                    preprocess__mean=[2, 0, 0],
                ),
            ),
            "manifest.task",
            "those at 0, 1 are not 1 to 200 printable characters",
            "mean.0",
            "6 rows for 5 labels",
        ),
        (
            "two dtypes, no bias, another seal",
            chain(
                without("head.bias"),
                values("A_q", "F64", (8, 4)),
                values("B_q", "BF16", (4, 8)),
                text('"seed":0', '"seed":1'),
            ),
            "dtype 'F64'",
            "dtype 'BF16'",
            "head.bias is missing",
        ),
        (
            "NaN behind another's seal",
            chain(number("A_q", float("nan")), text('"seed":0', '"seed":1')),
            "NaN",
            "the seal does not match",
        ),
    ),
    *of(
        409,
        (
            "another task, backbone and size",
            manifest(task="flowers", backbone__digest="ab" * 32, preprocess__size=[48, 40]),
            "'flowers', not 'digits'",
            "abababababababab, input 48x40",
        ),
        (
            "two shapes and another task",
            chain(
                manifest(task="flowers"),
                values("A_q", "F16", (4, 48)),
                values("head.weight", "F32", (5, 7)),
            ),
            "'flowers', not 'digits'",
            "has shape (4, 48)",
            "reads 7 features",
        ),
    ),
)
