"""LitServe with a whole model for every task: a dict in `setup`, as its quick start holds several.

A process for each endpoint, the other way of its documentation ("multiple API endpoints on one
port"), would import torch once a task. Needs LitServe, so runs in an environment of its own.
"""

import base64
from typing import Any

import litserve as ls
import torch
from network import Network, Order, order
from torch import Tensor

Asked = tuple[str, Tensor]  # task, picture


class Tasks(ls.LitAPI):
    """One endpoint; its JSON names the task."""

    def __init__(self, given: Order) -> None:
        super().__init__(
            max_batch_size=given.settings["batch"], batch_timeout=given.settings["wait_s"]
        )
        self.given = given

    def setup(self, device: str) -> None:
        """Every model, once a worker."""
        torch.set_num_threads(self.given.settings["threads"])
        self.network = Network(self.given.card)
        self.models = {
            path.stem: self.network.load(path) for path in sorted(self.given.live.iterdir())
        }

    def decode_request(self, request: dict[str, str]) -> Asked:
        """JSON with `task`, and `image` in base64."""
        return request["task"], self.network.pixels(base64.b64decode(request["image"]))

    def batch(self, inputs: list[Asked]) -> list[Asked]:
        """Tasks and pictures, side by side."""
        return inputs

    def predict(self, x: Asked | list[Asked]) -> Any:
        """Those of one task together; one alone where batches are of one."""
        asked = x if isinstance(x, list) else [x]
        tasks, pictures = zip(*asked, strict=True)
        found = self.network.by_task(self.models, tasks, pictures)
        return found if isinstance(x, list) else found[0]

    def unbatch(self, output: Any) -> Any:
        """They are a list already."""
        return output

    def encode_response(self, output: Any) -> Any:
        """As it is."""
        return output


if __name__ == "__main__":
    given = order()
    server = ls.LitServer(
        Tasks(given),
        accelerator="cpu",
        devices=1,
        workers_per_device=given.settings["workers"],
        timeout=60,
        fast_queue=given.settings["fast_queue"],
    )
    server.run(
        host="127.0.0.1",
        port=given.port,
        num_api_servers=given.settings["api_servers"],
        log_level="warning",
        generate_client_file=False,
    )
