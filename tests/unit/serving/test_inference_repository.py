"""The inference protocol's repository over a real replica: what index, load and unload mean."""

from adapters_store import artifact

BARE = {"Inference-Header-Content-Length": "0"}


def infer(client, image, task="digits"):
    """One call, of a bare image."""
    return client.post(f"/v2/models/{task}/infer", content=image, headers=BARE)


def test_the_index_names_what_answers_and_why_another_does_not(door, tiny, make_adapter, store):
    client, replica = door
    data = artifact.write(make_adapter(tiny, "linear", "birds", effect=False))
    store.publish(data, "birds", by="test")
    store.publish(
        artifact.write(make_adapter(tiny, "linear", "trees")), "trees", by="test", activate=False
    )
    store.retire("flowers", by="test")
    replica.follower.catch_up()
    infer(client, b"", task="birds")  # now it is known to be bad

    index = client.post("/v2/repository/index").json()

    assert [(e["name"], e["version"], e["state"]) for e in index] == [
        ("birds", "1", "UNAVAILABLE"),
        ("digits", "1", "READY"),
        ("trees", "", "UNAVAILABLE"),
    ]
    assert [bool(e["reason"]) for e in index] == [True, False, True]
    only = client.post("/v2/repository/index", json={"ready": True}).json()
    assert [e["name"] for e in only] == ["digits"]
    assert client.post("/v2/repository/index", content=b"{").status_code == 400
    assert client.get("/v2/models/birds/ready").status_code == 503


def test_a_release_that_fails_leaves_the_one_before_it_in_the_index(
    door, tiny, make_adapter, store
):
    client, replica = door
    bad = artifact.write(make_adapter(tiny, "linear", "digits", effect=False))
    store.publish(bad, "digits", by="test")
    replica.follower.catch_up()

    entry = client.post("/v2/repository/index").json()[0]

    assert (entry["name"], entry["version"], entry["state"]) == ("digits", "1", "READY")
    assert "digits@2" in entry["reason"]
    load = client.post("/v2/repository/models/digits/load")
    assert (load.status_code, set(load.json())) == (503, {"error"})


def test_load_brings_a_task_into_memory_and_unload_lets_it_go(door, png, never_quiet):
    client, replica = door
    digest = replica.store.catalog().task("digits").releases[0].digest

    def in_memory():
        return digest in replica.residency.resident(), replica.residency.known()

    loaded = client.post("/v2/repository/models/digits/load", content=b"{}")
    assert (loaded.status_code, loaded.json()) == (200, {"name": "digits", "replicas": 1})
    infer(client, png)
    assert in_memory()[0]
    before = in_memory()[1]

    unloaded = client.post(
        "/v2/repository/models/digits/unload", json={"parameters": {"unload_dependents": False}}
    )
    assert unloaded.status_code == 200
    assert in_memory() == (False, before - 1)
    assert client.get("/v2/models/digits/ready").status_code == 200
    assert in_memory() == (False, before - 1)  # asking whether it is ready loads nothing
    assert infer(client, png).status_code == 200
    assert in_memory()[0]


def test_load_reads_the_log_first(replica_of, publish, http):
    client = http(replica_of(poll_s=3600))
    assert client.post("/v2/repository/models/digits/load").status_code == 404

    publish("digits")

    assert client.post("/v2/repository/models/digits/load").status_code == 200
    assert client.post("/v2/repository/models/birds/unload").status_code == 404


def test_load_takes_no_configuration(door):
    client, _ = door
    order = {"parameters": {"config": "{}"}}

    assert client.post("/v2/repository/models/digits/load", json=order).status_code == 400


def test_a_page_of_another_site_can_neither_load_nor_unload(door):
    client, _ = door
    path = "/v2/repository/models/digits/unload"

    for origin, status in (("http://evil.example", 403), ("null", 403), ("http://[", 403)):
        assert client.post(path, headers={"Origin": origin}).status_code == status
    for origin, status in (("http://127.0.0.1", 200),):
        assert client.post(path, headers={"Origin": origin}).status_code == status
