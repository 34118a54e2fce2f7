"""Forwards over banks answer as torch does segment by segment, whoever shares or pads a batch."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters_store.methods.table import METHODS, fits, parse_options
from serving.engine.bank_lane import bucket
from serving.engine.engine import Engine
from serving.engine.forward import TorchForward
from serving.engine.graphs import Graphs

TOLERANCE = {  # convolutions on CUDA round to TF32
    ("cpu", "fp32"): 1e-5,
    ("cuda", "fp32"): 2e-3,
    ("cpu", "bf16"): 4e-2,
    ("cuda", "bf16"): 4e-2,
}
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
        ],
    ),
]


def pictures(backbone, count, seed=0):
    size = (count, 3, *backbone.spec.input_size)
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def graphs_of(engine, most=32, ranks=frozenset()):
    return Graphs(engine._net, list(engine._sizes), engine.device, engine.dtype, ranks, most=most)


def plain_of(engine):
    return TorchForward(engine._net, list(engine._sizes), engine.device, engine.dtype)


def assert_same(got, wanted, tolerance, names=()):
    for i, (a, b) in enumerate(zip(got, wanted, strict=True)):
        assert a.dtype == np.float32
        assert a.shape == b.shape
        gap = np.linalg.norm(a - b) / np.linalg.norm(b)
        assert gap <= tolerance, (names[i] if names else i, gap)


def in_sevens(items):
    """Batches of few layouts: more than eight are computed one segment at a time."""
    return [items[i : i + 7] for i in range(0, len(items), 7)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["vit", pytest.param("swin", marks=pytest.mark.slow)])
def test_every_method_answers_as_one_segment_at_a_time(tinies, make_adapter, family, dtype, device):
    backbone = tinies[family]
    engine = Engine(backbone, dtype, device, banked=True)
    graphs, plain = graphs_of(engine), plain_of(engine)
    methods = [m for m in METHODS if fits(m, parse_options(m, {}), backbone.spec)]
    methods = methods if family == "vit" else ["lora", "ssf", "alore"]

    for some in in_sevens(methods):
        adapters = [
            engine.place(engine.prepare(make_adapter(backbone, m, seed=i, effect=False)))
            for i, m in enumerate(some)
        ]
        adapters = [engine.identity(), *adapters, adapters[0]]
        images = pictures(backbone, len(adapters))
        wanted = plain(images, adapters)
        for _ in range(3):  # by operations, then recorded, then replayed
            assert_same(
                graphs(images, adapters), wanted, TOLERANCE[device, dtype], ["bare", *some, "0"]
            )
    assert graphs._works
    assert graphs.recordings


@pytest.fixture(scope="module")
def crowd(tiny, make_adapter):
    """(engine, its forward over banks, adapters of four layouts, pictures, what each says)."""
    engine = Engine(tiny, banked=True)
    cases = [("lora", {}), ("alore", {}), ("lora", {"rank": 3}), ("linear", {}), ("ssf", {})]
    placed = [
        engine.place(
            engine.prepare(make_adapter(tiny, m, seed=i, labels=2 + i % 5, effect=False, **options))
        )
        for i, (m, options) in enumerate(cases * 3)
    ]
    images, plain = pictures(tiny, len(placed)), plain_of(engine)
    alone = [plain(images[i : i + 1], [a])[0] for i, a in enumerate(placed)]
    return engine, graphs_of(engine), placed, images, alone


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(picks=st.lists(st.integers(0, 14), min_size=1, max_size=20))
def test_neither_companions_nor_padding_change_an_answer(crowd, picks):
    _, graphs, placed, images, alone = crowd

    answers = graphs(images[picks], [placed[i] for i in picks])

    assert_same(answers, [alone[i] for i in picks], 1e-5)
    assert graphs._works
    assert len(graphs.recordings) <= 32


def test_a_swapped_row_changes_one_answer_and_records_nothing(tiny, make_adapter):
    engine = Engine(tiny, banked=True)
    graphs, plain = graphs_of(engine), plain_of(engine)
    prepared = [engine.prepare(make_adapter(tiny, "lora", seed=i, effect=False)) for i in range(5)]
    images, placed = pictures(tiny, 3), [engine.place(p) for p in prepared[:3]]
    before = graphs(images, placed)
    recordings = list(graphs.recordings.values())

    placed[1] = engine.place(prepared[3])
    after = graphs(images, placed)

    assert list(graphs.recordings.values()) == recordings
    assert np.array_equal(before[0], after[0])
    assert np.array_equal(before[2], after[2])
    assert not np.allclose(before[1], after[1], atol=1e-3)
    assert_same(after, plain(images, placed), 1e-5)

    lone = placed[0].at
    lone.numbers.copy_(prepared[4].row)  # the same slot, another adapter's numbers
    changed = graphs(images, placed)
    assert list(graphs.recordings.values()) == recordings
    assert not np.allclose(changed[0], after[0], atol=1e-3)
    assert np.array_equal(changed[1], after[1])


class Recorder:
    """Stands for CUDA: what it has recorded runs again, and no more than that."""

    def __init__(self):
        self.recorded = 0

    def record(self, run):
        self.recorded += 1
        return run


def test_a_forward_is_recorded_when_it_is_asked_for_again_and_only_then(crowd):
    engine, _, placed, images, alone = crowd
    graphs = graphs_of(engine)
    graphs._cuda = Recorder()

    for turn, wanted in enumerate((0, 1, 1, 1)):
        i = 5 * (turn % 3)  # another adapter of the same layout each time
        assert_same(graphs(images[i : i + 1], [placed[i]]), alone[i : i + 1], 1e-5)
        assert graphs._cuda.recorded == wanted


@pytest.mark.parametrize("count", [1, 4, 5, 12])
def test_heads_of_few_or_many_adapters_are_each_samples_own(crowd, count):
    _, graphs, placed, images, alone = crowd
    picks = [i % count for i in range(13)]

    answers = graphs(images[picks], [placed[i] for i in picks])

    assert_same(answers, [alone[i] for i in picks], 1e-5)


def test_a_bank_that_grew_is_read_where_it_is_now(tiny, make_adapter):
    engine = Engine(tiny, banked=True)
    graphs, plain = graphs_of(engine), plain_of(engine)
    images = pictures(tiny, 12)
    prepared = [engine.prepare(make_adapter(tiny, "lora", seed=i, effect=False)) for i in range(12)]
    placed = [engine.place(p) for p in prepared[:4]]
    graphs(images[:4], placed)
    graphs(images[:1], placed[:1])
    old = next(iter(graphs.recordings.values())).rows[0]

    placed += [engine.place(p) for p in prepared[4:]]
    answers = graphs(images[:4], placed[:4])

    assert_same(answers, plain(images[:4], placed[:4]), 1e-5)
    assert all(r.rows[0] is not old for r in graphs.recordings.values())
    assert_same(graphs(images, placed), plain(images, placed), 1e-5)


def test_recordings_are_bounded_and_the_least_recently_used_goes(crowd):
    engine, _, placed, images, _ = crowd
    graphs = graphs_of(engine, most=3)
    lora = placed[0]

    for count in (1, 2, 4, 1, 8):
        graphs(images[:count], [lora] * count)

    assert [key[0][0] for key in graphs.recordings] == [4, 1, 8]


def test_recordings_are_by_size_and_layouts_not_by_adapters(crowd):
    engine, _, placed, images, _ = crowd
    graphs = graphs_of(engine)

    graphs(images[:3], [placed[0], placed[5], placed[1]])
    graphs(images[:4], [placed[1], placed[10], placed[6], placed[3]])
    assert len(graphs.recordings) == 1

    graphs(images[:4], [placed[0], placed[5], placed[10], placed[0]])
    assert len(graphs.recordings) == 2


def test_adapters_that_are_in_no_bank_are_computed_all_the_same(crowd, tiny, make_adapter):
    engine, _, placed, images, alone = crowd
    graphs = graphs_of(engine)
    loose = engine.prepare(make_adapter(tiny, "lora", seed=0, labels=2, effect=False))

    answers = graphs(images[:2], [loose, placed[1]])

    assert_same(answers, alone[:2], 1e-5)
    assert not graphs.recordings


def test_more_layouts_than_are_worth_a_recording_are_computed_all_the_same(tiny, make_adapter):
    engine = Engine(tiny, banked=True)
    graphs, plain = graphs_of(engine), plain_of(engine)
    placed = [
        engine.place(engine.prepare(make_adapter(tiny, "lora", rank=rank, effect=False)))
        for rank in range(1, 10)
    ]
    images = pictures(tiny, 9)

    assert_same(graphs(images, placed), plain(images, placed), 1e-5)
    assert not graphs.recordings

    assert_same(graphs(images[:8], placed[:8]), plain(images[:8], placed[:8]), 1e-5)
    assert graphs.recordings


def test_what_cannot_be_recorded_is_computed_all_the_same_and_said_once(crowd, caplog):
    engine, _, placed, images, alone = crowd
    graphs = graphs_of(engine)

    def broken(*_args):
        raise RuntimeError("capture failed")

    graphs._lane.features = broken
    for _ in range(2):
        assert_same(graphs(images[:3], placed[:3]), alone[:3], 1e-5)

    assert len(caplog.records) == 1
    assert not graphs.recordings


def test_an_engine_over_banks_serves_and_calibrates(crowd):
    engine, _, placed, images, alone = crowd

    curve = engine.calibrate(4)

    assert [size for size, _ in curve.seconds] == [1, 2, 4]
    assert_same(engine.run(images, placed), alone, 1e-5)


def test_an_engine_without_banks_does_not_use_them(tiny):
    engine = Engine(tiny)

    assert not isinstance(engine._forward(None, engine.form.attention), Graphs)


def test_sizes_are_few_and_never_too_small():
    sizes = {bucket(n) for n in range(1, 257)}

    assert all(bucket(n) >= n for n in range(1, 257))
    assert all(bucket(n) <= max(2 * n, n + 31) for n in range(1, 257))
    assert sizes == {1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 96, 128, 160, 192, 224, 256}
