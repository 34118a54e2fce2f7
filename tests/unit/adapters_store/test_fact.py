"""FacT: what the law cannot see. Where its blocks are, and that their factors are kept once."""

import math

import numpy as np
import pytest
import torch

from adapters_store import artifact
from adapters_store import backbone as backbones
from adapters_store.methods.fact import FactOptions, FactTk, FactTkOptions, FactTt, blocks_of
from adapters_store.methods.protocol import factors_at
from adapters_store.methods.summary import summaries
from adapters_store.normal_form import dense, rank
from serving.engine.engine import Engine

TT, TK = FactTt(), FactTk()
METHODS = pytest.mark.parametrize(
    ("method", "options"), [(TT, FactOptions()), (TK, FactTkOptions())], ids=["tt", "tk"]
)


def drawn(method, options, spec):
    """A float64 module with every trained number drawn at random."""
    module = method.module(options, spec, dropout=0.0).double().eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def delta(form, target):
    """What the form adds to the target's weight."""
    return sum(dense(op, target.outputs, target.inputs) for op in form[target.path].Q)


def test_vit_base_is_taken_apart_into_144_blocks():
    spec = backbones.describe("vit_base_patch16_224")
    cut = blocks_of(spec)

    assert [(t.role, grid, first) for t, grid, first in cut[:5]] == [
        ("qkv", (3, 1), 0),
        ("proj", (1, 1), 3),
        ("fc1", (4, 1), 4),
        ("fc2", (1, 4), 8),
        ("qkv", (3, 1), 12),
    ]
    assert cut[-1][2] + 4 == 144
    assert TK.layout(FactTkOptions(), spec)["shared.P"] == (32, 144)


def test_each_block_is_its_core_between_the_shared_factors(tiny):
    options = FactOptions(rank=4, scale=10.0)
    module = drawn(TT, options, tiny.spec)
    U, V = module.shared.U, module.shared.V

    form = TT.lower(options, tiny.spec, module.export())

    for target in tiny.spec.targets:
        blocks = [10.0 * V @ S @ U for S in module.by_path()[target.path].S]
        wanted = torch.cat(blocks, dim=1 if target.role == "fc2" else 0)
        torch.testing.assert_close(delta(form, target), wanted)


def test_tucker_is_a_tensor_train_whose_cores_are_mixed(tiny):
    options = FactTkOptions(rank=4, scale=0.5)
    module = drawn(TK, options, tiny.spec)
    stored = module.export()
    C, P = module.shared.C, module.shared.P
    train = {name: stored[name] for name in ("shared.U", "shared.V")}
    for target, grid, first in blocks_of(tiny.spec):
        columns = range(first, first + math.prod(grid))
        cores = [sum(C[:, :, m] * P[m, k] for m in range(4)) for k in columns]
        train[f"{target.path}.S"] = torch.stack(cores)

    form = TK.lower(options, tiny.spec, stored)

    same = TT.lower(FactOptions(rank=4), tiny.spec, train)
    for target in tiny.spec.targets:
        torch.testing.assert_close(delta(form, target), delta(same, target))


@METHODS
def test_no_target_is_changed_by_more_than_the_rank(tiny, method, options):
    given = options.model_copy(update={"rank": 5})
    form = method.lower(given, tiny.spec, drawn(method, given, tiny.spec).export())

    for target in tiny.spec.targets:
        assert rank(form[target.path]) == 5
        assert torch.linalg.matrix_rank(delta(form, target), rtol=1e-9) == 5


@METHODS
def test_shared_factors_are_trained_and_stored_once(tiny, make_adapter, method, options):
    module = method.module(options, tiny.spec, dropout=0.0)
    written = artifact.write(make_adapter(tiny, method.name))

    found = artifact.read(written)

    assert sum(p is module.shared.U for p in module.parameters()) == 1
    assert sum(t.size for t in found.factors.values()) == method.count(options, tiny.spec)
    kinds = {n.rpartition(".")[2] for n in found.factors if not n.startswith("shared.")}
    assert kinds == ({"S"} if method is TT else set())


@METHODS
def test_shared_factors_lie_in_a_row_once(tiny, make_adapter, method, options):
    prepared = Engine(tiny).prepare(make_adapter(tiny, method.name, effect=False))

    ops = [op for _, form in prepared.layout.targets for op in form.Q]

    r, d, blocks = options.rank, 48, 24
    assert len(ops) == len({op.core for op in ops}) == blocks
    assert len({op.down for op in ops}) == len({op.up for op in ops}) == 1
    assert prepared.layout.size == 2 * r * d + blocks * r * r


@pytest.mark.parametrize(
    ("name", "most", "published"), [("fact_tt", 16, 199_680), ("fact_tk", 32, 405_504)]
)
def test_blocks_share_the_products_with_u_and_v(name, most, published):
    """Above each other the one with U, side by side the one with V, as the paper counts."""
    spec = backbones.describe("vit_base_patch16_224")

    (row,) = (r for r in summaries(spec) if r["method"] == name)

    assert row["rank"] == most
    assert row["macs_per_token"] == published


def test_only_v_carries_the_scale(tiny):
    module = drawn(TK, FactTkOptions(scale=100.0), tiny.spec)

    stored = module.export()

    torch.testing.assert_close(stored["shared.V"], 100.0 * module.shared.V)
    for name in "UCP":
        assert torch.equal(stored[f"shared.{name}"], module.shared.get_parameter(name))


def test_fresh_factors_are_drawn_as_published(tiny):
    """V is zero; the four cores of fc2 are one layer of 4r inputs."""
    module = TT.module(FactOptions(rank=9), tiny.spec, dropout=0.0)

    factors = module.export()

    assert not factors["shared.V"].any()
    assert float(factors["shared.U"].abs().max()) <= 48**-0.5
    most = {
        role: float(factors_at(f"blocks.0.mlp.{role}", factors)["S"].abs().max())
        for role in ("fc1", "fc2")
    }
    assert 1 / 6 < most["fc1"] <= 1 / 3
    assert 1 / 12 < most["fc2"] <= 1 / 6


@METHODS
def test_layers_that_are_no_row_of_blocks_are_refused(method, options):
    spec = backbones.describe("vit_so150m_patch16_reg4_gap_256")

    with pytest.raises(ValueError, match="no row and no column of 896 by 896 blocks"):
        method.layout(options, spec)


@METHODS
def test_the_engine_answers_as_the_plain_path_does(tiny, make_adapter, method, options):
    from adapters_store import plain

    engine = Engine(tiny)
    adapters = [make_adapter(tiny, method.name, seed=s, effect=False) for s in range(3)]
    pictures = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), np.uint8)

    answers = engine.run(pictures, [engine.prepare(a) for a in adapters])

    for picture, adapter, answer in zip(pictures, adapters, answers, strict=True):
        alone = plain.logits(tiny, adapter, picture[None])[0]
        np.testing.assert_allclose(answer, alone, atol=1e-4, rtol=1e-4)
