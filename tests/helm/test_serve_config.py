"""`serveConfigV2`: Serve's own schema takes it, and it says what the settings say."""

import math

import pytest

from helm.tools import local
from serving.app import build, haproxy_bounds, timeouts_s
from serving.config import Settings

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's imports, not ours
GPU = {"settings": {"device": "cuda"}, "engine": {"spare": 1}}
SPLIT = {"settings": {"topology": "split", "replicas": 2, "doors": 3, "decode_threads": 4}}
SCALED = {"settings": {**SPLIT["settings"], "autoscale": True}}


def test_serve_takes_the_config(each):
    """Ray's own class of it, which refuses what it does not know of an application."""
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(each.serve)

    assert schema.applications[0].import_path == "serving.app:build"
    assert schema.proxy_location == "EveryNode"


def test_the_arguments_are_the_settings(each):
    """The server's own model takes them; numbers are still numbers."""
    settings = Settings.model_validate(each.serve["applications"][0]["args"])

    assert settings.host == "0.0.0.0"


def test_large_numbers_arrive_whole(render):
    """Helm's numbers are floats, and YAML would write 5e+07."""
    given = {"pixels_max": 50_000_000, "host_bytes": 2**41, "load_s": 2.5, "task_labels_max": 10**6}

    args = render({"settings": given}).serve["applications"][0]["args"]

    assert {name: args[name] for name in given} == given
    assert isinstance(args["host_bytes"], int)


@pytest.mark.parametrize(("budget", "load"), [(30, 30), (0.5, 0.25), (10, 2.5), (90, 60)])
def test_time_outs_are_those_of_the_server(render, budget, load):
    """Serve's and HAProxy's, by the same rule as a server on one machine."""
    given = {"settings": {"budget_s": budget, "load_s": load}}
    found = render({**given, "upgrade": {"deletionDelaySeconds": 300}})
    settings = Settings(store="x", budget_s=budget, load_s=load)

    env = {v["name"]: v["value"] for v in found.pods["engine"]["containers"][0]["env"]}
    request, haproxy = timeouts_s(settings)
    assert found.serve["http_options"]["request_timeout_s"] == request
    assert request == math.ceil(budget + load) + 10
    assert env.items() >= haproxy_bounds(settings).items()
    assert int(env["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) > haproxy


KINDS = {"fused": {}, "split": SPLIT, "gpu": GPU, "scaled": SCALED}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_replica_asks_of_ray_is_what_the_code_asks(render, kind):
    """The chart repeats it, because it adds where the replica may run."""
    found = render(KINDS[kind])
    args = Settings.model_validate(found.serve["applications"][0]["args"])
    built = {d.name: d for d in _deployments(build(args))}

    assert found.deployments.keys() == built.keys()
    for name, deployment in found.deployments.items():
        ours = dict(deployment["ray_actor_options"])
        (resource,) = ours.pop("resources")
        door = (name, args.topology) == ("rootstock", "split")
        assert resource == ("rootstock_door" if door else "rootstock_engine")
        theirs = {k: v for k, v in built[name].ray_actor_options.items() if v}
        assert {k: v for k, v in ours.items() if v} == theirs


def _deployments(application):
    """Of an application and of whatever it was bound to."""
    bound = application._bound_deployment
    yield bound
    for argument in bound.init_args:
        if type(argument).__name__ == "Application":
            yield from _deployments(argument)


def test_a_new_replica_stands_before_the_old_one_goes(render):
    """By default nothing is stopped before something else answers."""
    stop_first = render({"rollingUpdate": {"maxSurgePercent": 0}})

    assert render().deployments["rootstock"]["max_surge_percent"] == 100
    assert stop_first.deployments["rootstock"]["max_surge_percent"] == 0


def test_without_scaling_the_number_of_replicas_is_the_settings(render):
    """Nothing overrides what `build` says."""
    for deployment in render(SPLIT).deployments.values():
        assert "autoscaling_config" not in deployment
        assert "num_replicas" not in deployment


def test_with_scaling_the_settings_are_the_most(render):
    """Serve's own words, per group."""
    door = {"scaling": {"min_replicas": 2, "target_ongoing_requests": 40}}

    found = render({**SCALED, "door": door})

    doors, engines = (found.deployments[n]["autoscaling_config"] for n in ("rootstock", "engine"))
    assert (doors["min_replicas"], doors["max_replicas"]) == (2, 3)
    assert doors["target_ongoing_requests"] == 40
    assert (engines["min_replicas"], engines["max_replicas"]) == (1, 2)


def test_tokens_come_from_a_file_of_a_secret_and_never_stand_in_the_config(render):
    args = render({"tokens": {"secret": "keys", "key": "all"}}).serve["applications"][0]["args"]

    assert args["token_file"] == "/etc/rootstock/tokens/all"
    assert "tokens" not in args
    assert "token_file" not in render().serve["applications"][0]["args"]


def test_spans_and_lines_go_where_a_server_on_one_machine_sends_them(render):
    """By Serve's own words, from the settings."""
    quiet = render().serve
    told = render({"settings": {"traces": "serving.traces:otlp", "traces_share": 0.5}}).serve
    text = render({"settings": {"log_format": "text"}}).serve

    assert quiet["tracing_config"]["enabled"] is False
    assert told["tracing_config"] == {
        "enabled": True,
        "exporter_import_path": "serving.traces:otlp",
        "sampling_ratio": 0.5,
    }
    assert quiet["logging_config"]["encoding"] == "JSON"
    assert text["logging_config"]["encoding"] == "TEXT"


def test_a_word_replaces_every_replica(render):
    """Such as after tokens were changed: same settings, a new run-time environment."""
    application = render({"restart": "monday"}).serve["applications"][0]

    assert application["runtime_env"] == {"env_vars": {"ROOTSTOCK_RESTART": "monday"}}
    assert "runtime_env" not in render().serve["applications"][0]


@pytest.mark.parametrize("profile", ["cpu", "gpu", "production"])
def test_without_kubernetes_all_but_the_places_is_the_same(render, profile):
    """`helm.tools.local` writes what the chart renders, but for where replicas may run."""
    found = render(profile=profile).serve
    (application,) = found["applications"]
    del application["deployments"]
    args = application["args"]

    assert local.serve_config(args) == found
    settings = Settings.model_validate(args)
    env = {
        v["name"]: v["value"] for v in render(profile=profile).pods["head"]["containers"][0]["env"]
    }
    assert env.items() >= local.environment(settings).items()
