"""Export: rounded first, measured after; refused unless the law and the golden images agree."""

import numpy as np
import pytest
import torch

from adapters_store import artifact, plain
from adapters_store.admission import admit
from adapters_store.effect import Golden
from adapters_store.errors import EffectFailedError, LawBrokenError
from adapters_store.methods.alore import ExpertsSite
from adapters_store.methods.table import METHODS, parse_options
from training.export import export, reloaded, stored
from training.loop import Watch, fit
from training.recipe import Recipe
from training.run import train_task

CPU = torch.device("cpu")


class Transposing(ExpertsSite):
    """A site that stores a factor the wrong way round."""

    def factors(self):
        """A as its transpose."""
        return {**super().factors(), "A": self.A.transpose(1, 2)}


class Doubling(ExpertsSite):
    """A site that folds in another scale than it computes with."""

    def factors(self):
        """U twice as large."""
        return {**super().factors(), "U": 2 * self.scale * self.U}


@pytest.mark.parametrize(
    ("method", "options"),
    [("alore", {"scale": 3}), ("alore", {"variant": "B"}), ("lora", {"scale": 5}), ("linear", {})],
)
def test_what_is_exported_is_admitted_and_has_its_effect(tiny, patterns, brief, method, options):
    """The bytes pass the whole trust boundary and say what they are."""
    made = train_task(patterns, tiny, "patterns", method, options, brief, device=CPU)

    adapter = admit(made.data, tiny.spec, task="patterns")
    Golden(tiny).check(adapter)

    manifest = adapter.manifest
    assert manifest.labels == patterns.classes
    assert parse_options(method, manifest.options) == parse_options(method, options)
    assert set(manifest.metrics) == {"train", "val", "test"}
    assert manifest.provenance.data == patterns.digest
    assert manifest.provenance.recipe["lr"] == 1e-2
    assert set(manifest.provenance.versions) == {"torch", "timm", "rootstock"}
    assert {t.dtype for t in adapter.factors.values()} <= {np.dtype("float16")}
    assert adapter.head_weight.dtype == np.float32
    assert max(made.report.trained, made.report.merged) < 1e-4


def test_training_twice_gives_the_same_digest(tiny, patterns, brief):
    """Nothing in the artifact varies between identical runs."""
    one, two = (
        train_task(patterns, tiny, "patterns", "alore", {}, brief, device=CPU) for _ in range(2)
    )

    assert artifact.digest(one.data) == artifact.digest(two.data)


@pytest.mark.parametrize("lying", [Transposing, Doubling])
def test_a_module_that_stores_other_than_it_computes_is_refused(tiny, patterns, brief, lying):
    """The law check at export runs on the training module itself."""
    options = parse_options("alore", {})
    fitted = fit(tiny, "alore", options, patterns, brief, device=CPU, watch=Watch())
    for site in fitted.module.sites:
        site.__class__ = lying

    with pytest.raises(LawBrokenError):
        export(
            fitted,
            tiny,
            patterns,
            task="patterns",
            method="alore",
            options=options,
            recipe=brief,
            device=CPU,
        )


def test_an_adapter_that_changes_nothing_is_refused(tiny, patterns):
    """Factors that were not trained are no adapter."""
    still = Recipe(epochs=1, lr=1e-12)

    with pytest.raises(EffectFailedError, match="change nothing"):
        train_task(patterns, tiny, "patterns", "lora", {}, still, device=CPU)


@pytest.mark.parametrize("scale", [1.0, 0.01, 100.0])
def test_a_reloaded_module_computes_with_the_stored_factors(tiny, patterns, scale):
    """Whatever the scale that export folds in."""
    options = parse_options("lora", {"scale": scale})
    module = METHODS["lora"].module(options, tiny.spec, 0.0).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    factors = {name: stored(tensor) for name, tensor in module.export().items()}

    again = reloaded(module, factors)

    for name, tensor in again.export().items():
        np.testing.assert_allclose(tensor.numpy(), factors[name].astype(np.float32), rtol=1e-6)
    pairs = zip(again.parameters(), module.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in pairs)


def test_factors_are_kept_in_half_precision_where_that_loses_nothing():
    """Ordinary, zero and mostly small values are; over- and underflowing ones stay whole."""
    ordinary = torch.randn(50, 4)
    few_large = torch.cat([torch.ones(1), torch.full((9,), 1e-9)])

    assert stored(ordinary).dtype == np.float16
    assert stored(torch.zeros(3, 2)).dtype == np.float16
    assert stored(few_large).dtype == np.float16
    assert stored(ordinary * 1e-7).dtype == np.float32
    assert stored(ordinary * 1e6).dtype == np.float32
    assert stored(torch.tensor([1.0, float("nan")])).dtype == np.float32
    assert stored(torch.zeros(0, 4)).dtype == np.float16


def test_the_metrics_are_those_of_the_rounded_factors(tiny, patterns, brief):
    """Asked again on the plain path, the artifact scores what its manifest says."""
    made = train_task(patterns, tiny, "patterns", "alore", {}, brief, device=CPU)

    for name, split in patterns.splits.items():
        guesses = plain.logits(tiny, made.adapter, split.images).argmax(1)
        assert made.adapter.manifest.metrics[name] == float((guesses == split.labels).mean())
