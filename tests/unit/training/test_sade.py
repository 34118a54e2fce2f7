"""SADE: the short form is the long one, and training asks for it where it may."""

import pytest
import torch

from adapters_store.methods.table import METHODS, parse_options
from training.behaviours import behaviour_of
from training.errors import RecipeInvalidError
from training.recipe import Recipe, compose
from training.run import train_task
from training.sade import sade


def module_of(backbone, **options):
    """A float64 CLoRA module, every trained number drawn at random."""
    parsed = parse_options("clora", {"rank": 3, "spaces": 4, **options})
    module = METHODS["clora"].module(parsed, backbone.spec, dropout=0.0).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def brute(module):
    """The sum over pairs of spaces of whole d x d products, as the formula reads."""
    sites = module.by_path().values()
    total = torch.zeros((), dtype=torch.float64)
    for site in sites:
        D, U = module.shared.of(site.pool)
        M = [D[h] @ site.Q[h] @ U[h] for h in range(len(D))]
        pairs = [(h, k) for h in range(len(M)) for k in range(len(M)) if h != k]
        total = total + sum((M[h].mT @ M[k]).square().sum() for h, k in pairs) / len(pairs)
    return total / len(sites)


@pytest.mark.parametrize("options", [{}, {"pools": 2}, {"scale": 10.0}])
@pytest.mark.parametrize(
    "family",
    ["vit", *(pytest.param(f, marks=pytest.mark.slow) for f in ("swin", "convnext", "mixer"))],
)
def test_the_short_form_is_the_long_one(tinies, family, options):
    module = module_of(tinies[family], **options)

    torch.testing.assert_close(sade(module), brute(module), rtol=1e-12, atol=0)


def test_both_forms_have_one_gradient(tiny):
    module = module_of(tiny, pools=2)
    trained = [(n, p) for n, p in module.named_parameters() if not n.endswith(".e")]

    short = torch.autograd.grad(sade(module), [p for _, p in trained])
    long = torch.autograd.grad(brute(module), [p for _, p in trained])

    for (name, _), one, other in zip(trained, short, long, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12, msg=name)


def test_it_is_zero_where_every_core_is(tiny):
    fresh = METHODS["clora"].module(parse_options("clora", {}), tiny.spec, dropout=0.0)

    value = sade(fresh)
    value.backward()

    assert float(value.detach()) == 0.0
    assert all(float(p.grad.abs().max()) == 0.0 for p in fresh.parameters() if p.grad is not None)


def test_it_is_zero_for_a_single_space(tiny):
    assert float(sade(module_of(tiny, spaces=1)).detach()) == 0.0


def test_training_adds_it_with_the_weight_of_the_recipe(tiny):
    module = module_of(tiny)

    asked = behaviour_of("clora", module, Recipe(sade=0.1)).penalty()

    torch.testing.assert_close(asked, 0.1 * brute(module))
    assert behaviour_of("clora", module, Recipe()).penalty() is None


def test_no_other_method_may_ask_for_it(tiny):
    other = METHODS["lora"].module(parse_options("lora", {}), tiny.spec, dropout=0.0)

    with pytest.raises(RecipeInvalidError, match="sade is for method clora alone, not for lora"):
        compose("lora", {"sade": 0.1})
    with pytest.raises(RecipeInvalidError, match="sade is for method clora alone"):
        behaviour_of("lora", other, Recipe(sade=0.1))
    assert compose("clora", {"sade": 0.1})[1].sade == 0.1


def test_a_task_trained_with_it_is_another_adapter(tiny, patterns, brief):
    plainly, apart = (
        train_task(
            patterns,
            tiny,
            "patterns",
            "clora",
            {},
            brief.model_copy(update={"sade": weight}),
            device=torch.device("cpu"),
        )
        for weight in (0.0, 10.0)
    )

    assert apart.adapter.manifest.provenance.recipe["sade"] == 10.0
    assert apart.data != plainly.data
