"""Ray Serve with `@serve.multiplexed` whole models and `@serve.batch`, as its documentation has it.

A model is loaded when it is first asked for, and stays: there is room for all. Needs Ray.
"""

import asyncio
import signal
from typing import Any

import ray
from network import Model, Network, Order, computers, decoders, order
from ray import serve
from starlette.requests import Request
from torch import Tensor

given = order()


@serve.deployment(
    num_replicas=given.settings["replicas"],
    max_ongoing_requests=256,
    ray_actor_options={"num_cpus": 1},
)
class Tasks:
    """The header names the model."""

    def __init__(self, given: Order) -> None:
        self.given, self.network = given, Network(given.card)
        self.decoding = decoders(given.settings["decoders"])
        self.computing = computers(given.settings["computers"], given.settings["threads"])

    @serve.multiplexed(max_num_models_per_replica=given.settings["models"])
    async def model(self, task: str) -> Model:
        """A whole model of one task."""
        loop = asyncio.get_running_loop()
        file = self.given.live / f"{task}.safetensors"
        return await loop.run_in_executor(self.computing, self.network.load, file)

    @serve.batch(
        max_batch_size=given.settings["batch"], batch_wait_timeout_s=given.settings["wait_s"]
    )
    async def answer(self, pictures: list[Tensor]) -> list[dict[str, Any]]:
        """Serve sees to it that a batch is of one model."""
        model = await self.model(serve.get_multiplexed_model_id())
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.computing, self.network.computed, model, pictures)

    async def __call__(self, request: Request) -> dict[str, Any]:
        """A picture's bytes to an answer."""
        body = await request.body()
        loop = asyncio.get_running_loop()
        return await self.answer(
            await loop.run_in_executor(self.decoding, self.network.pixels, body)
        )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ray.init(
        address="local",
        include_dashboard=False,
        num_cpus=max(2, given.settings["replicas"]),
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        _temp_dir=given.settings["ray_folder"],
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": given.port})
        serve.run(Tasks.bind(given), route_prefix="/")
        signal.pause()
    except KeyboardInterrupt:
        serve.shutdown()
        ray.shutdown()
