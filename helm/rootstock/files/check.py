"""`helm test`: ready, publish a tiny adapter, predict, retire. Exits 0 where all of it is right.

Reads ROOTSTOCK_URL, ROOTSTOCK_TIMEOUT_S, ROOTSTOCK_SETTINGS (JSON: backbone, weights and
backbone_kwargs of the server) and, where there are tokens, ROOTSTOCK_TOKEN_FILE. The adapter is a
head alone for the server's own backbone, with its effect record, so that nothing is let off.
"""
# ruff: noqa: INP001, S310 (mounted as one file; the address is the chart's own)

import json
import os
import secrets
import sys
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np

from adapters_store import artifact, backbone
from adapters_store.adapter import HEAD_BIAS, HEAD_WEIGHT, Adapter
from adapters_store.effect import Golden
from adapters_store.manifest import Manifest, Provenance

LABELS = ("left", "right")
IMAGE_SIZE = 64


def main() -> None:
    """All steps in order; the task is retired whatever happens."""
    url = os.environ["ROOTSTOCK_URL"].rstrip("/")
    until = time.monotonic() + float(os.environ.get("ROOTSTOCK_TIMEOUT_S", "600"))
    ready(url, until)
    say("ready")
    token = admin_token(os.environ.get("ROOTSTOCK_TOKEN_FILE"))
    if token is None:
        say("no tokens are configured, so nothing can be published: that part is left out")
        return
    task = f"helm-test-{secrets.token_hex(4)}"
    data = tiny(task)
    say("adapter made", task=task, bytes=len(data))
    try:
        published = ask(url, "PUT", f"/v1/tasks/{task}?wait=true", token, data)
        say("published", **{k: published[k] for k in ("release", "generation", "digest")})
        predict(url, task, token, published)
    finally:
        ask(url, "DELETE", f"/v1/tasks/{task}", token)
        say("retired")
    say("all is well")


def ready(url: str, until: float) -> None:
    """Wait until the server says so."""
    said = "nothing"
    while time.monotonic() < until:
        try:
            with urlopen(f"{url}/readyz", timeout=10) as answer:
                if answer.status == 200:
                    return
        except HTTPError as error:
            said = f"{error.code} {error.read(500).decode(errors='replace')}"
        except (URLError, OSError) as error:
            said = str(error)
        time.sleep(1)
    sys.exit(f"{url}/readyz did not become 200: {said}")


def admin_token(file: str | None) -> str | None:
    """The first token of the file that may publish and predict."""
    if not file:
        return None
    for line in Path(file).read_text().splitlines():
        words = line.split()
        if words and {"admin", "predict"} <= set(words[0].split(",")):
            return words[1]
    sys.exit("no token has both scopes, predict and admin: the test needs one")


def tiny(task: str) -> bytes:
    """An artifact: a head of two labels, which sees the server's own backbone."""
    settings = json.loads(os.environ.get("ROOTSTOCK_SETTINGS", "{}"))
    weights = settings.get("weights")
    name = settings.get("backbone", backbone.NANO)
    kwargs = settings.get("backbone_kwargs", {})
    net = backbone.load(name, Path(weights) if weights else None, **kwargs)
    rng = np.random.default_rng(0)
    tensors = {
        HEAD_WEIGHT: rng.standard_normal((len(LABELS), net.spec.features)).astype(np.float32),
        HEAD_BIAS: np.zeros(len(LABELS), np.float32),
    }
    manifest = Manifest(
        task=task,
        method="linear",
        options={},
        backbone=net.spec.ref,
        preprocess=net.spec.preprocess(),
        labels=LABELS,
        provenance=Provenance(seed=0),
    )
    bare = Adapter(manifest=manifest, tensors=tensors)
    effect = Golden(net).record(bare)
    return artifact.write(
        Adapter(manifest=manifest.model_copy(update={"effect": effect}), tensors=tensors)
    )


def predict(url: str, task: str, token: str, published: dict[str, object]) -> None:
    """Both labels come back, from the release that was published."""
    given = {"X-Min-Generation": str(published["generation"])}
    answer = ask(url, "POST", f"/v1/tasks/{task}:predict", token, picture(), given)
    labels = sorted(p["label"] for p in answer["predictions"])
    total = sum(p["probability"] for p in answer["predictions"])
    if (answer["digest"], labels) != (published["digest"], sorted(LABELS)):
        sys.exit(f"a wrong answer: {answer}")
    if abs(total - 1) > 1e-3:
        sys.exit(f"probabilities add up to {total}")
    say("predicted", label=answer["predictions"][0]["label"], release=answer["release"])


def picture() -> bytes:
    """A bitmap of a gradient: 24 bits, rows upwards, no library needed."""
    size = IMAGE_SIZE
    rows = b"".join(
        bytes((4 * x % 256, 4 * y % 256, (x + y) % 256)) for y in range(size) for x in range(size)
    )
    whole = 54 + len(rows)
    head = b"BM" + whole.to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    info = (40, size, size)
    return (
        head
        + b"".join(n.to_bytes(4, "little") for n in info)
        + (1).to_bytes(2, "little")
        + (24).to_bytes(2, "little")
        + bytes(4)
        + len(rows).to_bytes(4, "little")
        + bytes(16)
        + rows
    )


def ask(
    url: str,
    verb: str,
    path: str,
    token: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> dict[str, object]:
    """One call; what it answers."""
    sent = {"Authorization": f"Bearer {token}", "Content-Type": "application/octet-stream"}
    request = Request(f"{url}{path}", data=body, method=verb, headers={**sent, **(headers or {})})
    try:
        with urlopen(request, timeout=120) as answer:
            return json.load(answer)
    except HTTPError as error:
        sys.exit(f"{verb} {path}: {error.code} {error.read(2000).decode(errors='replace')}")


def say(what: str, **more: object) -> None:
    """A line for `helm test --logs`."""
    sys.stdout.write(" ".join([what, *(f"{k}={v}" for k, v in more.items())]) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
