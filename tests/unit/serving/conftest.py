"""A whole replica without Ray: the tiny backbone, a store in a folder, the door in process."""

import io

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from starlette.testclient import TestClient

from adapters_store import artifact
from adapters_store.store import AdapterStore
from serving import api
from serving.config import Settings
from serving.engine.engine import Engine
from serving.replica import Replica
from serving.residency import Residency
from serving.telemetry import Telemetry
from tests.shelves import Shelf

PROBLEM = "application/problem+json"


class Alone:
    """A fleet of one replica; keeps the promise of `Fleet`."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica

    async def broadcast(self, method, *args, timeout_s=2.0):
        return [self.replica.call(method, *args)]

    def expected(self):
        return 1

    def request_id(self):
        return "request-1"


@pytest.fixture(scope="session")
def weights(tiny, tmp_path_factory):
    """The tiny backbone's weights as a file."""
    file = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(tiny.net.state_dict(), file)
    return file


@pytest.fixture
def settings_of(tiny, weights, tmp_path):
    """Settings for the tiny backbone and a store of the test's own, with changes."""

    def build(**changes) -> Settings:
        return Settings(
            **{
                "store": f"file://{tmp_path}/store",
                "backbone": tiny.spec.ref.name,
                "weights": weights,
                "backbone_kwargs": tiny.spec.ref.kwargs,
                "threads": 1,  # the fewest forms to choose from: every replica measures them all
                "batch_max": 8,
                "slots": 8,
                "poll_s": 0.1,
                **changes,
            }
        )

    return build


@pytest.fixture
def replica_of(settings_of):
    """Starts replicas and closes them."""
    started: list[Replica] = []

    def start(**changes) -> Replica:
        started.append(Replica(settings_of(**changes), f"replica-{len(started)}"))
        return started[-1]

    yield start
    for replica in started:
        replica.close()


@pytest.fixture
def store(tiny, settings_of) -> AdapterStore:
    """The store that the replicas follow."""
    return AdapterStore.open(settings_of().store, tiny.spec.ref.digest)


@pytest.fixture
def publish(tiny, make_adapter, store):
    """Makes a valid adapter and publishes it behind the replicas' backs; returns its artifact."""

    def put(task="digits", method="lora", seed=0, **options) -> bytes:
        data = artifact.write(make_adapter(tiny, method, task, seed=seed, **options))
        store.publish(data, task, by="test")
        return data

    return put


@pytest.fixture
def http():
    """A client of one replica's door, in process."""

    def open_(replica: Replica) -> TestClient:
        app = api.build(replica, Alone(replica))
        return TestClient(app, "http://127.0.0.1", raise_server_exceptions=False)

    return open_


@pytest.fixture(scope="session")
def png() -> bytes:
    """An ordinary picture."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def engine(tiny):
    return Engine(tiny)


@pytest.fixture(scope="module")
def artifacts(tiny, make_adapter):
    """Six small adapters of one task."""
    return [artifact.write(make_adapter(tiny, "lora", seed=i, rank=1, labels=2)) for i in range(6)]


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
def residency_of(tiny, engine, shelf):
    """Makes residencies of two slots, with changes; in the end their books must hold."""
    made: list[Residency] = []

    def make(**changes) -> Residency:
        how = {"slots": 2, "host_bytes": 2**30, **changes}
        made.append(Residency(tiny, engine, shelf, Telemetry(task_labels_max=10), **how))
        return made[-1]

    yield make
    for residency in made:
        residency.check()
        residency.close()
        residency.check()


@pytest.fixture
def residency(residency_of):
    return residency_of()


@pytest.fixture
def one(engine, artifacts):
    """Bytes that one of the adapters takes."""
    return engine.prepare(artifact.read(artifacts[0])).nbytes


@pytest.fixture
def never_quiet(monkeypatch):
    """The engine is never idle for long enough, so that nothing is checked unasked."""
    monkeypatch.setattr("serving.host_memory._CALM_S", 3600.0)


@pytest.fixture
def door(replica_of, publish, http):
    """(client, replica) with two tasks published."""
    publish("digits", "alore", labels=6)
    publish("flowers", "lora", seed=1, labels=3)
    replica = replica_of()
    return http(replica), replica


def predict(client, task="digits", body=b"", kind="image/png", **headers):
    """One prediction."""
    headers = {"Content-Type": kind, **{k.replace("_", "-"): v for k, v in headers.items()}}
    return client.post(f"/v1/tasks/{task}:predict", content=body, headers=headers)
