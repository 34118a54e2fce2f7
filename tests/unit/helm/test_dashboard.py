"""The dashboard as data: a valid Grafana document over metrics that exist."""

import itertools
import re

import pytest

from helm.tools import dashboard, generate
from serving.telemetry import FLEET, METRICS

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
EXPORTED = {name + s for name, m in METRICS.items() for s in SUFFIXES[m.kind]} | set(FLEET)
# Kubernetes, folders and names of the chart that begin like metrics.
OTHERS = {"rootstock_engine", "rootstock_door", "rootstock_nano", "rootstock_request_seconds"}

NAMES = r"\b(?:rootstock|ray_serve)_[a-z0-9_]*[a-z0-9]"


def panels() -> list[dict]:
    return [panel for panel in dashboard.built()["panels"] if panel["type"] != "row"]


def test_every_metric_named_in_the_chart_is_in_the_table():
    """Dashboards and alerts cannot ask for what nobody measures."""
    named: set[str] = set()
    for file in generate.CHART.rglob("*"):
        if file.suffix in {".yaml", ".json", ".tpl"} and "schema" not in file.name:
            named |= set(re.findall(NAMES, file.read_text()))

    assert named - OTHERS <= EXPORTED
    assert len(named & EXPORTED) > 25


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_is_whole(panel):
    """A title, a unit, and queries that all ask for the chosen release."""
    assert panel["title"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    for target in panel["targets"]:
        metrics = re.findall(r"rootstock_[a-z_]+", target["expr"])
        assert metrics
        assert target["expr"].count('{job=~"$job"') == len(metrics)


def test_panels_do_not_overlap_and_have_ids_of_their_own():
    everything = dashboard.built()["panels"]
    ids = [panel["id"] for panel in everything]
    cells = [
        set(itertools.product(range(g["x"], g["x"] + g["w"]), range(g["y"], g["y"] + g["h"])))
        for g in (panel["gridPos"] for panel in everything)
    ]

    assert len(set(ids)) == len(ids)
    assert sum(map(len, cells)) == len(set().union(*cells))
    assert all(x < 24 for cell in cells for x, _ in cell)


def test_the_document_has_what_grafana_wants_of_it():
    document = dashboard.built()

    assert document["uid"] == "rootstock"
    assert document["schemaVersion"] >= 36
    assert [v["name"] for v in document["templating"]["list"]] == ["source", "job"]
    assert {p["type"] for p in document["panels"]} == {"row", "timeseries", "stat"}
