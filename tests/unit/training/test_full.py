"""Full fine-tuning: every weight of a copy, by the same loop, as a plain timm model."""

import timm
import torch
from safetensors.torch import load

from adapters_store.backbone import weights_digest
from adapters_store.pixels import normalise
from training.full import train_full
from training.recipe import Recipe
from training.watch import Watch


def test_every_weight_is_trained_and_the_backbone_is_not(tiny, patterns, brief):
    """The copy moves as a whole; what it was copied from keeps its digest."""
    before = weights_digest(tiny.net)

    state = load(train_full(patterns, tiny, brief).data)

    assert weights_digest(tiny.net) == before
    assert not any(p.requires_grad for p in tiny.net.parameters())
    for name, parameter in tiny.net.named_parameters():
        assert not torch.equal(state[name], parameter), name


def test_timm_loads_it_strictly_and_answers_as_it_was_measured(tiny, patterns):
    """The accuracies are those of the model that was written."""
    made = train_full(patterns, tiny, Recipe(epochs=8, batch=8, lr=1e-3, dropout=0))
    ref = tiny.spec.ref
    model = timm.create_model(ref.name, num_classes=len(patterns.classes), **ref.kwargs)
    model.load_state_dict(load(made.data), strict=True)
    preprocess = tiny.spec.preprocess()
    mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)

    with torch.no_grad():
        pixels = normalise(torch.from_numpy(patterns.splits["test"].images), mean, std)
        guesses = model.eval()(pixels).argmax(1).numpy()

    assert made.metrics["test"] == (guesses == patterns.splits["test"].labels).mean()
    assert made.metrics["train"] > 0.5
    assert made.log[-1].val_accuracy == made.metrics["val"]
    assert made.parameters == sum(p.numel() for p in tiny.net.parameters())


def test_two_runs_give_the_same_bytes_and_steps_are_told(tiny, patterns, brief):
    """As adapters do; recomputing blocks changes none."""
    steps = []
    slim = brief.model_copy(update={"recompute": True})

    one = train_full(patterns, tiny, brief, watch=Watch(on_step=lambda *s: steps.append(s)))

    assert one.data == train_full(patterns, tiny, slim).data
    assert steps == [(n, 9) for n in range(1, 10)]
