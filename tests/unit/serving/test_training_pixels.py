"""Training and serving see the same pixels of the same JPEG, and scale them alike."""

import io

import numpy as np
import pytest
from PIL import Image

from adapters_store import artifact
from adapters_store.adapter import Adapter
from adapters_store.effect import Golden
from training import folder
from training.augment import wide
from training.recipe import Recipe

RECIPES = {
    "squash": Recipe(),
    "timm": Recipe(geometry="timm", normalise="imagenet"),
}


def jpegs() -> dict[str, bytes]:
    """JPEGs as cameras and programs write them: subsampled, progressive, grey, CMYK, turned."""
    y, x = np.mgrid[:120, :90]
    grid = np.stack([x * 2 % 256, y * 2 % 256, x * y % 256], axis=-1).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (75, 133, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    scene, rough = Image.fromarray(grid), Image.fromarray(noise)
    kinds = {
        "fine": (scene, {"quality": 95, "subsampling": 0}),
        "coarse": (rough, {"quality": 30, "subsampling": 2}),
        "progressive": (rough, {"progressive": True}),
        "grey": (scene.convert("L"), {}),
        "inks": (rough.convert("CMYK"), {}),
        "turned": (scene, {"exif": exif}),
        "thin": (scene.resize((300, 11)), {}),
    }
    found = {}
    for name, (image, how) in kinds.items():
        file = io.BytesIO()
        image.save(file, "JPEG", **how)
        found[name] = file.getvalue()
    return found


@pytest.fixture
def served(tiny, make_adapter, store, replica_of, http):
    """The pixels that reach the batcher when these files are sent to a task of this recipe."""

    def send(files, recipe):
        made = make_adapter(tiny, effect=False)
        manifest = made.manifest.model_copy(update={"preprocess": recipe.preprocess(tiny.spec)})
        made = Adapter(manifest=manifest, tensors=made.tensors)
        effect = Golden(tiny).record(made)
        made = Adapter(
            manifest=manifest.model_copy(update={"effect": effect}), tensors=made.tensors
        )
        store.publish(artifact.write(made), "digits", by="test")
        replica = replica_of()
        submit, found = replica.batcher.submit, []

        def watch(sample):
            found.append(sample.pixels)
            return submit(sample)

        replica.batcher.submit = watch
        client = http(replica)
        for file in files:
            answer = client.post("/v1/tasks/digits:predict", content=file)
            assert answer.status_code == 200, answer.text
        return np.stack(found)

    return send


def trained_on(root, files, preprocess):
    """The pixels that a run reads from a folder of these files."""
    (root / "test" / "digits").mkdir(parents=True)
    for number, file in enumerate(files):
        (root / "test" / "digits" / f"{number:03}.jpg").write_bytes(file)
    return folder.read_split(root, "test", ("digits",), preprocess, strict=True)[0].images


@pytest.mark.parametrize("geometry", RECIPES)
def test_training_reads_the_pixels_that_serving_computes_with(served, tiny, tmp_path, geometry):
    recipe, files = RECIPES[geometry], list(jpegs().values())

    pixels = served(files, recipe)

    np.testing.assert_array_equal(trained_on(tmp_path, files, recipe.preprocess(tiny.spec)), pixels)


@pytest.mark.shared
@pytest.mark.parametrize("geometry", RECIPES)
def test_photographs_are_the_same_pixels_in_training_and_serving(
    served, tiny, shared, tmp_path, geometry
):
    recipe = RECIPES[geometry]
    files = [p.read_bytes() for p in sorted((shared / "images").glob("*.JPEG"))[:12]]
    assert files

    pixels = served(files, recipe)

    np.testing.assert_array_equal(trained_on(tmp_path, files, recipe.preprocess(tiny.spec)), pixels)


def test_crops_are_drawn_from_around_the_pixels_that_are_served(tiny, tmp_path):
    """Of geometry timm the middle of the margin is the served picture: no other resampling."""
    preprocess = RECIPES["timm"].preprocess(tiny.spec).model_copy(update={"crop_pct": 0.8})
    files = [file for name, file in jpegs().items() if name != "thin"]

    margins = trained_on(tmp_path / "wide", files, wide(preprocess))

    pixels = trained_on(tmp_path / "served", files, preprocess)
    np.testing.assert_array_equal(margins[:, :, 4:36, 4:36], pixels)
