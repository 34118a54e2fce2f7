"""The artifact: one adapter, one text; anything else is refused with every fault."""

import json
import pickle
import subprocess
import sys
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from adapters_store import artifact
from adapters_store.adapter import Adapter
from adapters_store.admission import admit
from adapters_store.errors import (
    ArtifactInvalidError,
    BackboneMismatchError,
    MismatchError,
    TaskMismatchError,
)
from adapters_store.manifest import canonical
from tests import forge
from tests.matrix_artifacts import CASES, TASK, TASK_NAMES
from tests.matrix_manifests import MANIFESTS

ANYHOW = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def good(tiny, make_adapter):
    """A valid adapter, small."""
    return make_adapter(tiny, "lora", rank=1, labels=2)


@pytest.fixture(scope="module")
def data(good):
    """Its bytes."""
    return artifact.write(good)


@pytest.fixture(scope="module")
def sound(tiny, make_adapter, tmp_path_factory):
    """The parts of a valid artifact that the matrix makes bad ones from."""
    trap = tmp_path_factory.mktemp("trap") / "sprung"
    return forge.opened(artifact.write(make_adapter(tiny, "lora", TASK)), trap)


@contextmanager
def peak():
    """The most memory that was had inside, beyond what was had before."""
    found = []
    tracemalloc.start()
    try:
        yield lambda: found[0]
    finally:
        found.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()


def altered(adapter: Adapter, **changes) -> bytes:
    """The artifact of an adapter with some tensors replaced, added or (None) removed."""
    tensors = {**adapter.tensors, **changes}
    kept = {k: v for k, v in tensors.items() if v is not None}
    return artifact.write(Adapter(manifest=adapter.manifest, tensors=kept))


def faults_of(data: bytes, spec=None, task=None) -> str:
    """Every fault, joined."""
    with pytest.raises(ArtifactInvalidError) as caught:
        artifact.read(data) if spec is None else admit(data, spec, task=task)
    return "; ".join(caught.value.faults)


def test_what_is_written_is_read_back(good, data):
    read = artifact.read(data)

    assert read.manifest == good.manifest
    assert set(read.tensors) == set(good.tensors)
    for name, tensor in good.tensors.items():
        np.testing.assert_array_equal(read.tensors[name], tensor)


def test_the_same_adapter_gives_the_same_bytes_in_every_process(data, tmp_path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(data)
    program = (
        "import sys; from adapters_store import artifact as a; "
        "d = open(sys.argv[1], 'rb').read(); print(a.digest(a.write(a.read(d))))"
    )

    digests = {
        subprocess.run(
            [sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True
        ).stdout.strip()
        for _ in range(2)
    }

    assert digests == {artifact.digest(data)}


def test_metadata_has_one_key_and_it_is_canonical_json(data):
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])

    assert set(header["__metadata__"]) == {"manifest"}
    assert header["__metadata__"]["manifest"] == canonical(
        json.loads(header["__metadata__"]["manifest"])
    )


@ANYHOW
@given(at=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_any_changed_byte_is_refused(data, at, mask):
    spoilt = bytearray(data)
    spoilt[int(at * len(data))] ^= mask

    with pytest.raises(ArtifactInvalidError):
        artifact.read(bytes(spoilt))


def test_every_byte_of_the_header_is_protected(data):
    length = int.from_bytes(data[:8], "little")
    for at in range(8 + length):
        for mask in (0x01, 0x20, 0x29, 0x80):
            spoilt = bytearray(data)
            spoilt[at] ^= mask
            with pytest.raises(ArtifactInvalidError):
                artifact.read(bytes(spoilt))


@ANYHOW
@given(keep=st.floats(0, 1, exclude_max=True))
def test_any_truncation_is_refused(data, keep):
    with pytest.raises(ArtifactInvalidError):
        artifact.read(data[: int(keep * len(data))])


def test_bytes_after_the_end_are_refused(data):
    assert "account" in faults_of(data + b"\0" * 8)


@ANYHOW
@given(st.binary(max_size=4096))
def test_noise_is_refused(noise):
    with pytest.raises(ArtifactInvalidError):
        artifact.read(noise)


def test_a_header_that_claims_more_than_is_there_is_refused():
    assert "out of range" in faults_of((2**40).to_bytes(8, "little") + b"{}")


def test_a_deeply_nested_header_is_refused():
    raw = b"[" * 100_000
    assert "not JSON" in faults_of(len(raw).to_bytes(8, "little") + raw)


def test_overlapping_tensors_are_refused():
    header = {
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
    }
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)

    assert "overlap" in faults_of(len(raw).to_bytes(8, "little") + raw + b"\0" * 12)


def test_nan_is_refused_when_written_and_when_read(good):
    bad = good.head_weight.copy()
    bad[0, 0] = np.nan
    with pytest.raises(ArtifactInvalidError, match="NaN"):
        altered(good, **{"head.weight": bad})

    foreign = save({**good.tensors, "head.weight": bad}, metadata={"manifest": "{}"})
    assert "NaN" in faults_of(foreign)


def test_a_foreign_dtype_is_refused(good):
    with pytest.raises(ArtifactInvalidError, match="float64"):
        altered(good, **{"head.bias": np.zeros(2)})


def test_several_faults_are_reported_at_once(tiny, good):
    path = "blocks.0.attn.qkv"
    data = altered(
        good,
        **{
            f"{path}.A_q": np.zeros((3, 48), np.float16),
            f"{path}.B_q": None,
            "evil": np.zeros(3, np.float16),
        },
    )

    faults = faults_of(data, tiny.spec)

    assert f"'{path}.A_q' has shape (3, 48), not (1, 48)" in faults
    assert f"'{path}.B_q' is missing" in faults
    assert "'evil' is not one of method 'lora'" in faults


def test_a_head_that_does_not_fit_its_labels_is_refused(good):
    assert "3 rows for 2 labels" in faults_of(
        altered(good, **{"head.weight": np.zeros((3, 48), np.float32)})
    )


def test_another_backbone_is_refused_and_named(nano, data):
    with pytest.raises(BackboneMismatchError, match=nano.spec.ref.digest[:16]):
        admit(data, nano.spec)


def test_another_task_is_refused(tiny, data):
    with pytest.raises(TaskMismatchError, match="digits"):
        admit(data, tiny.spec, task="flowers")


def test_unknown_methods_and_options_are_refused(tiny, good):
    for change, word in (
        ({"method": "magic"}, "unknown method"),
        ({"options": {"rank": 0}}, "rank"),
        ({"options": {"depth": 1}}, "depth"),
    ):
        manifest = good.manifest.model_copy(update=change)
        data = artifact.write(Adapter(manifest=manifest, tensors=good.tensors))
        assert word in faults_of(data, tiny.spec)


@pytest.mark.parametrize("name", [*TASK_NAMES, ""])
def test_task_names_that_break_the_rule_are_refused(good, name):
    manifest = good.manifest.model_copy(update={"task": name})
    data = artifact.write(Adapter(manifest=manifest, tensors=good.tensors))

    assert "task" in faults_of(data)


@pytest.mark.parametrize(
    "header",
    [
        '{"\\ud800":1}',
        '{"a":{"dtype":"F32","shape":[0,549755813888,549755813888],"data_offsets":[0,0]}}',
        '{"a":{"dtype":"F32","shape":[],"data_offsets":[0]}}',
        '{"a":{"dtype":["F32"],"shape":[],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}',
        '{"a":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}}',
        "[]",
        "null",
        '{"a":1,"a":1}',
    ],
)
def test_strange_headers_are_refused_and_nothing_else_happens(header):
    raw = header.encode()
    raw += b" " * (-len(raw) % 8)

    assert faults_of(len(raw).to_bytes(8, "little") + raw + b"\0" * 4)


@pytest.mark.filterwarnings("ignore:Pydantic serializer")
@pytest.mark.parametrize(
    "backbone",
    [
        {"name": "hf-hub:evil/x"},
        {"name": "local-dir:/etc"},
        {"kwargs": {"checkpoint_path": "/any.pth"}},
        {"kwargs": {"embed_dim": 10**7}},
    ],
)
def test_an_artifact_does_not_choose_what_is_downloaded(good, backbone):
    ref = good.manifest.backbone.model_copy(update=backbone)
    manifest = good.manifest.model_copy(update={"backbone": ref})
    data = artifact.write(Adapter(manifest=manifest, tensors=good.tensors))

    assert "backbone" in faults_of(data)


BY_EFFECT = {c.name for c in MANIFESTS if {"record", "logit", "logits"} & set(c.words[0].split())}


@pytest.mark.parametrize("case", [c for c in CASES if c.name not in BY_EFFECT], ids=str)
def test_every_bad_artifact_is_refused_with_every_fault(case, sound, tiny):
    data = case.spoil(sound)

    with pytest.raises(ArtifactInvalidError if case.status != 409 else Exception) as caught:
        admit(data, tiny.spec, task=TASK)

    if case.status == 409:
        assert isinstance(caught.value, MismatchError | BackboneMismatchError | TaskMismatchError)
    assert case.status == 413 or all(word in str(caught.value) for word in case.words)
    assert len(str(caught.value)) < 20_000
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert not sound.trap.exists(), "somebody unpickled"


def test_the_trap_springs_when_somebody_does_unpickle(sound, tmp_path):
    """Otherwise its silence would prove nothing."""
    own = forge.opened(sound.data, tmp_path / "sprung")

    pickle.loads(forge.pickled(own, 4))

    assert own.trap.exists()


def test_the_parts_of_an_artifact_make_it_again(sound):
    """Otherwise a case could be refused for how it was made."""
    assert forge.written(sound.manifest, sound.tensors) == sound.data


def test_whatever_a_header_claims_memory_is_bounded_by_the_file(sound, tiny):
    text = "".join(f'"{i % 100:02}",' for i in range(2**19 - 2))
    worst = forge.framed(f'{{"a":[{text}"\U0001f331"]}}', b"")  # as many parts as are parsed
    cases = {c.name: c.spoil(sound) for c in CASES if "2⁶" in c.name or "MiB of" in c.name}

    for name, data in {**cases, "worst": worst}.items():
        with peak() as most, pytest.raises(ArtifactInvalidError):
            admit(data, tiny.spec)
        assert most() < 32 * len(data) + 2**20, (name, most(), len(data))


def test_a_sound_artifact_is_read_without_a_copy_of_its_tensors(good):
    wide = {n: np.ones((1, 2**20), np.float32) for n in ("a", "b", "c", "d")}
    data = artifact.write(Adapter(manifest=good.manifest, tensors={**good.tensors, **wide}))

    with peak() as most:
        artifact.read(data)

    assert most() < len(data) / 4


@ANYHOW
@given(tail=st.binary(min_size=1, max_size=4096))
def test_whatever_is_appended_is_refused(data, tail):
    with pytest.raises(ArtifactInvalidError):
        artifact.read(data + tail)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@ANYHOW
@given(value=JSON, body=st.binary(max_size=64))
def test_any_json_is_refused_as_a_header(value, body):
    raw = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    with pytest.raises(ArtifactInvalidError):
        artifact.read(forge.framed(raw.encode("utf-8", "surrogatepass"), body))


@ANYHOW
@given(value=JSON, change=st.data())
def test_any_json_in_a_manifest_is_refused_or_means_the_same(sound, value, change):
    """A sealed manifest with one value replaced: an artifact that is written so, or none."""
    folder = change.draw(
        st.sampled_from(["", "options", "backbone", "preprocess", "provenance", "effect"])
    )
    manifest = json.loads(canonical(sound.manifest))
    place = manifest[folder] if folder else manifest
    place[change.draw(st.sampled_from(sorted(place)) | st.text(max_size=8))] = value
    try:
        data = forge.written(manifest, sound.tensors)
        read = artifact.read(data)
    except (ArtifactInvalidError, UnicodeEncodeError):  # a surrogate is in no file
        return

    assert artifact.write(read) == data


@ANYHOW
@given(labels=st.lists(st.text(min_size=1, max_size=200), min_size=5, max_size=5, unique=True))
def test_labels_are_read_as_written_or_refused(sound, labels):
    data = forge.manifest(labels=labels)(sound)
    fine = all(label.isprintable() for label in labels)
    try:
        assert list(artifact.read(data).manifest.labels) == labels
        assert fine
    except ArtifactInvalidError:
        assert not fine
