"""Which heads respond: the score is the slope it claims to be, and the choice follows from it."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from adapters_store import plain
from adapters_store.backbone import Backbone, features
from adapters_store.methods.heart_lora import HeartLora, HeartLoraOptions
from training import heads
from training.behaviours import behaviour_of
from training.errors import RecipeInvalidError
from training.loop import Watch, fit
from training.recipe import Recipe, compose
from training.run import train_task

HEART = HeartLora()
CPU = torch.device("cpu")


def drawn(backbone, **options):
    """A float64 module, all heads on, every trained number drawn at random."""
    module = HEART.module(HeartLoraOptions(**options), backbone.spec, dropout=0.0).double().eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    heads.open_all(module)
    return module


@pytest.fixture
def losses(tiny):
    """The maker of two batches' losses of a module."""
    net = Backbone(tiny.net, tiny.spec).net
    images = torch.randn(2, 3, 3, *tiny.spec.input_size, dtype=torch.float64)
    weight = torch.randn(4, tiny.spec.features, dtype=torch.float64)

    def make(module):
        import copy

        sited = plain.sited(copy.deepcopy(net).double(), module)
        return lambda: (
            F.cross_entropy(features(sited, batch) @ weight.T, torch.tensor([0, 1, 3]))
            for batch in images
        )

    return make


def test_the_score_is_the_slope_of_the_loss_along_a_gate(tiny, losses):
    """Against finite differences of scaling one head's rows of B_q and B_v, batch by batch."""
    module = drawn(tiny)
    run = losses(module)

    found = heads.responses(module, run())

    for site in module.by_path().values():
        for head in range(3):
            rows = slice(16 * head, 16 * (head + 1))
            ends = []
            for gate in (1 + 1e-5, 1 - 1e-5):
                with torch.no_grad():
                    held = [site.B_q[rows].clone(), site.B_v[rows].clone()]
                    site.B_q[rows] *= gate
                    site.B_v[rows] *= gate
                    ends.append(torch.stack(list(run())))
                    site.B_q[rows], site.B_v[rows] = held
            slope = ((ends[0] - ends[1]) / 2e-5).abs().mean()
            assert float(found[site][head]) == pytest.approx(float(slope), rel=1e-5)


def test_scoring_leaves_no_trace(tiny, losses):
    module = drawn(tiny)
    before = {n: p.clone() for n, p in module.named_parameters()}

    heads.responses(module, losses(module)())

    assert all(torch.equal(p, before[n]) for n, p in module.named_parameters())
    assert all(p.grad is None for p in module.parameters())
    assert all(site.gates is None for site in module.by_path().values())


def test_layers_are_judged_together_each_by_its_own_measure(tiny, monkeypatch):
    """One layer's large scores do not drown the other's; on equal terms head 1 is the lowest."""
    module = drawn(tiny)
    first, second = module.by_path().values()
    scores = {
        first: torch.tensor([100.0, 50.0, 60.0]).double(),
        second: torch.tensor([0.2, 0.1, 1.0]).double(),
    }
    monkeypatch.setattr(heads, "responses", lambda *_: scores)

    heads.choose(module, lambda: iter(()))

    assert first.active is second.active
    assert first.active.on.tolist() == [True, False, True]
    for site in (first, second):
        assert not site.B_q[16:32].any()
        assert not site.B_v[16:32].any()
        assert site.B_q[:16].any()


def test_each_layer_may_have_its_own_choice(tiny, monkeypatch):
    module = drawn(tiny, choice="layer", heads_off=2)
    first, second = module.by_path().values()
    scores = {
        first: torch.tensor([3.0, 1.0, 2.0]).double(),
        second: torch.tensor([0.0, 0.0, 0.0]).double(),
    }
    monkeypatch.setattr(heads, "responses", lambda *_: scores)

    heads.choose(module, lambda: iter(()))

    assert first.active.on.tolist() == [True, False, False]
    assert second.active.on.tolist() == [False, False, True]  # in ties the first go off


@pytest.mark.parametrize(("epochs", "warmup", "chosen_after"), [(3, 1, 1), (4, 2, 2), (2, 9, 2)])
def test_all_heads_are_trained_until_the_warmup_is_over(tiny, epochs, warmup, chosen_after):
    module = HEART.module(HeartLoraOptions(), tiny.spec, dropout=0.0)
    recipe = Recipe(epochs=epochs, head_warmup_epochs=warmup)
    asked = behaviour_of("heart_lora", module, recipe)
    sites = list(module.by_path().values())
    images = torch.randn(2, 3, 32, 32)
    net = plain.sited(tiny.net, module)

    counts = [int(sites[0].active.on.sum())]
    for number in range(1, epochs + 1):
        asked.after_epoch(number, lambda: (features(net, images).square().sum() for _ in range(2)))
        counts.append(int(sites[0].active.on.sum()))

    assert counts == [3] * chosen_after + [2] * (epochs - chosen_after + 1)


@pytest.mark.parametrize("choice", ["global", "layer"])
@pytest.mark.parametrize("epochs", [1, 3])
def test_training_always_chooses_and_what_is_off_stays_off(tiny, patterns, epochs, choice):
    """Adam's momentum may move rows that are off: they are neither applied nor stored."""
    options = HeartLoraOptions(choice=choice)
    recipe = Recipe(epochs=epochs, batch=10, lr=1e-2)

    fitted = fit(tiny, "heart_lora", options, patterns, recipe, device=CPU, watch=Watch())

    stored = fitted.module.export()
    assert {n: tuple(t.shape) for n, t in stored.items()} == HEART.layout(options, tiny.spec)
    for site in fitted.module.by_path().values():
        assert int(site.active.on.sum()) == 2


def test_the_choice_is_the_networks_and_not_the_orders(tiny, patterns):
    """Heads that are told to say nothing are the ones that go."""
    import copy

    net = copy.deepcopy(tiny.net)
    with torch.no_grad():
        for block in net.blocks:
            block.attn.proj.weight[:, :16] = 0  # nobody hears head 0
            block.attn.qkv.weight[:16] = 0
    deaf = Backbone(net, tiny.spec)

    fitted = fit(
        deaf, "heart_lora", HeartLoraOptions(), patterns, Recipe(epochs=2, lr=1e-2, batch=10),
        device=CPU, watch=Watch(),
    )  # fmt: skip

    assert fitted.module.export()["shared.heads"].tolist() == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["vit", "swin", "convnext", "mixer"])
def test_a_trained_task_is_exported_on_every_family(tinies, family):
    from training.data import from_arrays

    rng = np.random.default_rng(0)
    size = tinies[family].spec.input_size
    images = rng.integers(0, 256, (12, 3, *size), np.uint8)
    labels = np.arange(12) % 3
    data = from_arrays(("a", "b", "c"), {"train": (images, labels), "val": (images, labels)})
    recipe = Recipe(epochs=2, batch=6, lr=1e-2)

    made = train_task(data, tinies[family], "task", "heart_lora", {}, recipe, device=CPU)

    lists = [t for n, t in made.adapter.factors.items() if n.endswith("heads")]
    assert lists
    assert all((np.diff(heads.astype(int)) > 0).all() for heads in lists)


def test_another_method_has_no_heads_to_warm_up():
    with pytest.raises(RecipeInvalidError, match="head_warmup_epochs is for method heart_lora"):
        compose("lora", {"head_warmup_epochs": 2})
