"""PEFT's mixed batches (`adapter_names`) behind FastAPI, with a micro-batcher, which PEFT has not.

Whatever waits when the network is free goes together, whichever tasks it wants. Heads lie beside
PEFT and are one product: its own way (`modules_to_save`) runs them one after another. An adapter
that is not there yet is loaded from its folder when it is first asked for.
"""

import asyncio
import json
import multiprocessing
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import peft
import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from network import Model, Network, Order, computers, decoders, order
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor


class Mixture:
    """The backbone with every adapter on it. Of one thread."""

    def __init__(self, given: Order) -> None:
        torch.set_num_threads(given.settings["threads"])
        self.given, self.network = given, Network(given.card)
        self.net = self.network.load(given.folder / "base.safetensors", bare=True).net
        self.model: Any = None
        self.dtype = ""
        self.place: dict[str, int] = {}
        features = int(self.net.num_features)
        labels = len(given.card["labels"])
        self.weight = torch.zeros(0, labels, features, dtype=self.network.dtype)
        self.bias = torch.zeros(0, labels, dtype=self.network.dtype)
        for task in given.tasks:
            self.load(task)
        self.dtype = Model.of(self.model).dtype

    def load(self, task: str) -> None:
        """Put an adapter on, and its head beside the others.

        Raises:
            FileNotFoundError: there is none.
        """
        if task in self.place:
            return
        folder = self.given.live / task
        config = json.loads((folder / "adapter_config.json").read_text())
        kept = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias")
        lora = LoraConfig(inference_mode=True, **{name: config[name] for name in kept})
        held = load_file(folder / "adapter_model.safetensors")
        tensors = {name: tensor.to(self.network.dtype) for name, tensor in held.items()}
        name = self.given.card["classifier"]
        weight = tensors.pop(f"base_model.model.{name}.weight")
        bias = tensors.pop(f"base_model.model.{name}.bias")
        # Left to itself PEFT would keep adapters in float32, and cast every activation.
        if self.model is None:
            self.model = peft.get_peft_model(
                self.net, lora, adapter_name=task, autocast_adapter_dtype=False
            ).eval()
        else:
            self.model.add_adapter(task, lora, low_cpu_mem_usage=True)
        peft.set_peft_model_state_dict(
            self.model, tensors, adapter_name=task, low_cpu_mem_usage=True
        )
        self.weight = torch.cat([self.weight, weight[None]])
        self.bias = torch.cat([self.bias, bias[None]])
        self.place[task] = len(self.place)

    def answers(self, wanted: list[str], pictures: list[Tensor]) -> list[dict[str, Any]]:
        """Of a batch of any tasks."""
        with torch.inference_mode():
            vectors = self.model(self.network.images(pictures), adapter_names=wanted)
            mine = torch.tensor([self.place[task] for task in wanted])
            logits = torch.baddbmm(self.bias[mine, :, None], self.weight[mine], vectors[:, :, None])
        return self.network.answers(logits[:, :, 0], self.dtype)


class Batcher:
    """Requests wait here while the network computes."""

    def __init__(self, mixture: Mixture, size: int) -> None:
        self.mixture, self.size = mixture, size
        self.computing = computers(1, mixture.given.settings["threads"])
        self.waiting: asyncio.Queue[tuple[str, Tensor, asyncio.Future[Any]]] = asyncio.Queue()

    async def run(self) -> None:
        """Batch after batch."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self.waiting.get()]
            while len(batch) < self.size and not self.waiting.empty():
                batch.append(self.waiting.get_nowait())
            tasks, pictures, futures = map(list, zip(*batch, strict=True))
            try:
                found = await loop.run_in_executor(
                    self.computing, self.mixture.answers, tasks, pictures
                )
            except Exception as error:  # noqa: BLE001 (whoever waits is told)
                for future in futures:
                    future.set_exception(error)
                continue
            for future, row in zip(futures, found, strict=True):
                future.set_result(row)

    async def load(self, task: str) -> None:
        """Between two batches."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self.computing, self.mixture.load, task)

    async def answer(self, task: str, picture: Tensor) -> Any:
        """When its batch is done."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.waiting.put_nowait((task, picture, future))
        return await future


def build(given: Order) -> FastAPI:
    """The application of one process."""
    mixture = Mixture(given)
    decoding = decoders(given.settings["decoders"])

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        app.state.batcher = Batcher(mixture, given.settings["batch"])
        task = asyncio.create_task(app.state.batcher.run())
        yield
        task.cancel()

    app = FastAPI(lifespan=running)

    @app.post("/predict/{task}")
    async def predict(task: str, request: Request) -> Any:
        body = await request.body()
        batcher: Batcher = app.state.batcher
        if task not in mixture.place:
            try:
                await batcher.load(task)
            except FileNotFoundError:
                raise HTTPException(404, f"no task {task!r}") from None
        loop = asyncio.get_running_loop()
        picture = await loop.run_in_executor(decoding, mixture.network.pixels, body)
        return await batcher.answer(task, picture)

    return app


def serve(given: Order, listening: socket.socket) -> None:
    """One process of the server."""
    config = uvicorn.Config(build(given), log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    given = order()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", given.port))
    listening.listen(512)
    if given.settings["workers"] == 1:
        serve(given, listening)
    else:
        context = multiprocessing.get_context("fork")
        workers = [
            context.Process(target=serve, args=(given, listening))
            for _ in range(given.settings["workers"])
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
