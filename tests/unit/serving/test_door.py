"""The door's own bounds: what one bad call may cost the others."""

import asyncio
import io

import pytest
from PIL import Image

from adapters_store import artifact
from adapters_store.adapter import Adapter
from serving.errors import BehindError


def test_a_long_list_of_tasks_is_refused_before_any_is_loaded(replica_of, publish, http, png):
    publish("digits")
    replica = replica_of(tasks_max=2)
    replica.residency.forget(r.digest for r in replica.store.catalog().tasks["digits"].releases)
    query = "&".join("task=digits@1" for _ in range(3))

    answer = http(replica).post(f"/v1/predict?{query}", content=png)

    assert answer.status_code == 400
    assert "at most 2 tasks" in answer.json()["detail"]
    assert replica.residency.known() == 0


def test_a_picture_that_one_geometry_refuses_is_answered_for_the_others(
    replica_of, store, make_adapter, tiny, http
):
    for task, geometry in (("wide", "squash"), ("narrow", "timm")):
        adapter = make_adapter(tiny, "linear", task)
        preprocess = adapter.manifest.preprocess.model_copy(update={"geometry": geometry})
        manifest = adapter.manifest.model_copy(update={"preprocess": preprocess})
        made = artifact.write(Adapter(manifest=manifest, tensors=adapter.tensors))
        store.publish(made, task, by="test")
    thread = io.BytesIO()
    Image.new("1", (1, 60_000)).save(thread, "PNG")
    client = http(replica_of(pixels_max=1_000_000))

    answer = client.post("/v1/predict?task=wide&task=narrow", content=thread.getvalue())

    assert answer.status_code == 200
    answered, refused = answer.json()["results"]
    assert len(answered["predictions"]) == 5
    assert refused["status"] == 400


def test_only_so_many_wait_for_a_generation_that_never_comes(replica_of):
    """Each for its own time, and the rest are told at once: others' calls must get through."""
    replica = replica_of()

    async def ask() -> list[object]:
        calls = (replica.ensure(99, 0.2) for _ in range(100))
        found = await asyncio.gather(*calls, return_exceptions=True)
        await replica.ensure(0, 0.2)
        return found

    found = asyncio.run(ask())

    assert {type(one) for one in found} == {BehindError}
    with pytest.raises(BehindError):  # and the count was given back
        asyncio.run(replica.ensure(99, 0.0))
    assert replica._behind == 0
