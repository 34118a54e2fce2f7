"""The engine against the plain path: whatever shares a batch, every sample gets its own answer."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters_store import plain
from adapters_store.normal_form import Kronecker, LinearForm, LowRank, apply
from serving.engine.engine import CostCurve, Engine, _in_full
from serving.engine.lane import after, before, plan
from serving.engine.layout import flatten

CASES = [
    ("alore", {}),
    ("alore", {"variant": "B", "experts": 2}),
    ("alore", {"placement": "attention"}),
    ("lora", {}),
    ("lora", {"rank": 3}),
    ("lora", {"variant": "qkv"}),
    ("linear", {}),
]


@pytest.fixture(scope="module")
def crowd(tiny, make_adapter):
    """(engine, adapters, prepared, pictures, what each says alone by the plain path)."""
    engine = Engine(tiny)
    adapters = [
        make_adapter(tiny, method, seed=i, labels=3 + i % 4, effect=False, **options)
        for i, (method, options) in enumerate(CASES * 2)
    ]
    pictures = np.random.default_rng(0).integers(0, 256, (len(adapters), 3, 32, 32), np.uint8)
    alone = [plain.logits(tiny, a, p[None])[0] for a, p in zip(adapters, pictures, strict=True)]
    return engine, adapters, [engine.prepare(a) for a in adapters], pictures, alone


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(picks=st.lists(st.integers(0, 13), min_size=1, max_size=24))
def test_companions_in_a_batch_never_change_an_answer(crowd, picks):
    engine, _, prepared, pictures, alone = crowd

    answers = engine.run(pictures[picks], [prepared[i] for i in picks])

    for pick, answer in zip(picks, answers, strict=True):
        np.testing.assert_allclose(answer, alone[pick], atol=1e-4, rtol=1e-4)


def test_bf16_agrees_with_fp32_within_rounding(tiny, crowd):
    _, adapters, _, pictures, alone = crowd
    engine = Engine(tiny, "bf16")

    answers = engine.run(pictures, [engine.prepare(a) for a in adapters])

    for answer, wanted in zip(answers, alone, strict=True):
        assert np.linalg.norm(answer - wanted) <= 5e-2 * np.linalg.norm(wanted)


def test_the_identity_gives_the_bare_features(tiny):
    engine = Engine(tiny)
    picture = np.random.default_rng(1).integers(0, 256, (1, 3, 32, 32), np.uint8)

    (answer,) = engine.run(picture, [engine.identity()])

    bare = plain.vectors(tiny.net, tiny.spec.preprocess(), picture)[0]
    np.testing.assert_allclose(answer, bare, atol=1e-5)


def test_two_lanes_over_the_same_weights_run_side_by_side(crowd):
    from concurrent.futures import ThreadPoolExecutor

    engine, _, prepared, pictures, alone = crowd

    def many(lane):
        return [lane(pictures, prepared) for _ in range(5)]

    with ThreadPoolExecutor(2) as pool:
        results = [r for rs in pool.map(many, [engine.lane(), engine.lane()]) for r in rs]

    for answers in results:
        for answer, wanted in zip(answers, alone, strict=True):
            np.testing.assert_allclose(answer, wanted, atol=1e-4, rtol=1e-4)


def random_form(rng: np.random.Generator, outputs: int, inputs: int) -> LinearForm:
    """A form with something of everything: shared down, scattered rows, core, affine terms."""

    def t(*shape):
        return torch.from_numpy(rng.standard_normal(shape)).double()

    down = t(3, inputs)
    rows = torch.from_numpy(np.sort(rng.permutation(outputs)[:5]))
    cols = torch.from_numpy(np.sort(rng.permutation(inputs)[:4]))
    return LinearForm(
        P=(
            Kronecker(mix=t(2, 4, 4), down=t(2, 3, inputs // 4), up=t(2, inputs // 4, 3)),
            LowRank(down=t(2, 4), up=t(inputs, 2), cols=cols),
        ),
        Q=(
            LowRank(down=down, up=t(outputs, 3)),
            LowRank(down=down, core=t(2, 3), up=t(6, 2), rows=slice(3, 9)),
            LowRank(down=t(2, inputs), up=t(5, 2), rows=rows),
            Kronecker(
                mix=t(2, 3, 2),
                down=t(2, 2, inputs // 2),
                up=t(2, 4, 2),
                rows=slice(0, 12),
            ),
        ),
        alpha=t(inputs),
        c=t(inputs),
        gamma=torch.tensor(1.5).double(),
        beta=t(outputs),
    )


def test_the_lane_executes_every_operator_of_the_normal_form():
    rng = np.random.default_rng(3)
    forms = [random_form(rng, 24, 8) for _ in range(3)]
    weight, bias = torch.randn(24, 8).double(), torch.randn(24).double()
    x = torch.randn(5, 7, 8).double()
    laid = [flatten({"t": f}, {"t": (24, 8)}, torch.float64, expanded=False) for f in forms]
    picks = [0, 1, 2, 2, 2]

    for chosen in (picks, [2] * 5):
        segments = plan([laid[i][0] for i in chosen], [laid[i][1] for i in chosen])["t"]
        z = before(x, segments)
        y = torch.nn.functional.linear(z, weight, bias)
        after(y, z, segments)

        for i, pick in enumerate(chosen):
            torch.testing.assert_close(y[i], apply(forms[pick], x[i], weight, bias))


def test_operators_that_name_the_same_down_store_it_once():
    down = torch.randn(3, 8)
    form = LinearForm(Q=tuple(LowRank(down=down, up=torch.randn(8, 3)) for _ in range(3)))

    layout, row = flatten({"t": form}, {"t": (8, 8)}, torch.float32, expanded=False)

    assert len({op.down for op in layout.targets[0][1].Q}) == 1
    assert row.numel() <= 4 * 32 + 32


def test_an_adapter_takes_about_its_artifact_in_memory(nano, make_adapter):
    adapter = make_adapter(nano, "alore", effect=False)

    prepared = Engine(nano, "bf16").prepare(adapter)

    stored = adapter.factor_bytes + adapter.head_weight.nbytes + adapter.head_bias.nbytes
    assert prepared.nbytes <= 1.3 * stored


def tf32() -> tuple[bool, bool]:
    """Whether products of matrices, and convolutions, are computed in it on CUDA."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def allow(products: bool, convolutions: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = products
    torch.backends.cudnn.allow_tf32 = convolutions


@pytest.fixture
def _tf32():
    before = tf32()
    allow(True, True)
    yield
    allow(*before)


@pytest.mark.usefixtures("_tf32")
def test_fp32_in_full_switches_every_shortcut_off():
    assert tf32() == (True, True)

    _in_full()

    assert tf32() == (False, False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.usefixtures("_tf32")
def test_an_fp32_engine_on_cuda_computes_in_full(nano):
    Engine(nano, "fp32", "cuda")

    assert tf32() == (False, False)


def test_the_best_batch_is_the_smallest_whose_images_cost_about_the_least():
    curve = CostCurve(((1, 1.0), (2, 1.5), (4, 2.5), (8, 4.99), (16, 9.9)))

    assert curve.best() == 4
    assert CostCurve(((1, 1.0), (2, 1.99), (4, 2.5))).best() == 4, "a plateau is not the end"
    assert curve.of(3) == 2.5
    assert curve.of(32) == 19.8
