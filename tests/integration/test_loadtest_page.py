"""The report's pages in a browser: nothing is complained of, and nothing wider than the screen."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from loadtest.outcomes import Outcome
from loadtest.report.page import page
from loadtest.report.saturation import page as saturation_page
from loadtest.report.summary import report
from tests.unit.loadtest.conftest import make_hits, make_scenario

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
WIDTHS = (1280, 390)
WRAPPER = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
<pre id="out"></pre>
<script>addEventListener('load', () => {{
  const found = [...document.querySelectorAll('iframe')].map((frame) => {{
    const doc = frame.contentDocument, shown = [...doc.querySelectorAll('svg')]
      .filter((s) => s.getBoundingClientRect().width > 0);
    const letters = shown.flatMap((s) => [...s.querySelectorAll('text')]
      .map((t) => 11 * s.getBoundingClientRect().width / s.viewBox.baseVal.width));
    return {{wide: doc.documentElement.scrollWidth, plots: shown.length,
      smallest: Math.min(...letters)}};
  }});
  document.getElementById('out').textContent = JSON.stringify(found);
}});</script>{frames}"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here"),
]


def run_page() -> str:
    names = [f"a-task-with-a-rather-long-name-{i:03d}" for i in range(60)]
    scenario = make_scenario(duration_s=60.0, tasks={"names": names}, name="a page")
    rng = np.random.default_rng(0)
    stages = {name: np.full(6000, 3.0, np.float32) for name in ("decode", "queue", "compute")}
    outcome = np.where(rng.random(6000) < 0.01, Outcome.SHED, Outcome.OK)
    changes = [{"kind": "publish", "task": names[0], "at": 5.0, "took_ms": 80.0, "status": 201}]
    hits = make_hits(
        rng.gamma(2.0, 20.0, 6000),
        scenario=scenario,
        tasks=rng.integers(0, 60, 6000),
        outcome=outcome,
        stages=stages,
        changes=changes,
    )
    return page(report(hits), hits)


def search_page() -> str:
    steps = [
        {
            "rate": rate,
            "passed": rate <= 120,
            "reasons": [] if rate <= 120 else ["p99 900.0 ms", "12.00% failed", "latency grew"],
            "rates": {"ok": min(rate, 130.0), "goodput": 0.0 if rate > 120 else rate},
            "attainment": 0.5,
            "failed_share": 0.12,
            "p50_ms": rate,
            "p99_ms": 3 * rate,
        }
        for rate in (30.0, 60.0, 120.0, 240.0, 170.0, 143.0)
    ]
    beyond = {
        "factor": 2.0,
        "rates": {"offered": 240.0, "ok": 130.0, "goodput": 110.0},
        "shed_share": 0.4,
        "p50_ms": 90.0,
        "p99_ms": 140.0,
        "refused_p99_ms": 5.0,
        "recovery_s": 0.7,
    }
    return saturation_page(
        {
            "name": "a search",
            "slo_ms": 250.0,
            "knee": 120.0,
            "too_high": 143.0,
            "bound": "server",
            "steps": steps,
            "overload": [beyond],
            "tasks": {"known": 8, "effective": 6.1},
            "scenario": {},
            "environment": {},
        }
    )


def test_pages_are_readable_on_a_desk_and_in_a_hand(tmp_path):
    pages = [run_page(), search_page()]
    frames = "".join(
        f'<iframe srcdoc="{html.escape(text)}" width="{width}" height="900" frameborder="0">'
        "</iframe>"
        for text in pages
        for width in WIDTHS
    )
    file = tmp_path / "wrapper.html"
    file.write_text(WRAPPER.format(frames=frames), encoding="utf-8")

    done = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *(f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000"),
            *("--virtual-time-budget=10000", "--dump-dom", file.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )

    assert "CONSOLE" not in done.stderr
    found = json.loads(re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)[1])
    assert all(one["wide"] <= width for one, width in zip(found, 2 * WIDTHS, strict=True)), found
    assert [one["plots"] for one in found] == [4, 4, 2, 2]
    assert all(one["smallest"] >= 9.5 for one in found), found
