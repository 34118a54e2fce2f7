"""BentoML with a whole model for every task: one Service, and an API with batches for each.

So its documentation runs several models in one Service ("model composition"), and batches
("adaptive batching": one parameter, a list). Needs BentoML, so runs in an environment of its own:
`bentoml serve` imports this file, which reads its order from the environment.
"""

import json
import os
from pathlib import Path
from typing import Any

import bentoml
import torch
from network import Network
from PIL import Image

ORDER = json.loads(os.environ["ROOTSTOCK_PEER_ORDER"])
SETTINGS = ORDER["settings"]
TASKS = sorted(path.stem for path in Path(ORDER["live"]).iterdir())


def api(number: int, task: str) -> Any:
    """The API of one task."""

    def answer(self: Any, images: list[Image.Image]) -> list[dict[str, Any]]:
        pictures = [self.network.arranged(image) for image in images]
        found: list[dict[str, Any]] = self.network.computed(self.models[task], pictures)
        return found

    answer.__name__ = f"task_{number}"
    return bentoml.api(
        answer,
        route=f"/predict/{task}",
        batchable=True,
        max_batch_size=SETTINGS["batch"],
        max_latency_ms=SETTINGS["latency_ms"],
    )


def build() -> type:
    """The class of the Service: models in `__init__`, an API for each."""

    def load(self: Any) -> None:
        torch.set_num_threads(SETTINGS["torch_threads"])
        card = json.loads((Path(ORDER["folder"]) / "card.json").read_text())
        self.network = Network(card)
        self.models = {
            path.stem: self.network.load(path) for path in sorted(Path(ORDER["live"]).iterdir())
        }

    members = {f"task_{number}": api(number, task) for number, task in enumerate(TASKS)}
    return type("Tasks", (), {"__init__": load, "__module__": __name__, **members})


Tasks = bentoml.service(
    workers=SETTINGS["workers"],
    threads=SETTINGS["threads"],
    traffic={"timeout": 60},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)(build())
