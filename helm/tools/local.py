"""The chart's settings on one's own Ray cluster: `python -m helm.tools.local VALUES --out DIR`.

Writes `serve.yaml` for `serve deploy` or `serve run`, and `environment.sh`, which must be sourced
before `ray start`. Where replicas may run is the chart's business: here Ray places them.
"""

import argparse
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from serving.app import APPLICATION, ENVIRONMENT, INGRESS, haproxy_bounds, timeouts_s
from serving.config import Settings


def serve_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """What `serve deploy` reads, of settings as they stand in the values.

    Raises:
        pydantic.ValidationError: they are no settings.
    """
    settings = Settings.model_validate(given)
    return {
        "proxy_location": "EveryNode",
        "http_options": {
            "host": settings.host,
            "port": settings.port,
            "request_timeout_s": timeouts_s(settings)[0],
        },
        "logging_config": {
            "log_level": "WARNING",
            "enable_access_log": False,
            "encoding": settings.log_format.upper(),
        },
        "tracing_config": {
            "enabled": bool(settings.traces),
            "exporter_import_path": settings.traces,
            "sampling_ratio": settings.traces_share,
        },
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": "serving.app:build",
                "args": dict(given),
            }
        ],
    }


def environment(settings: Settings) -> dict[str, str]:
    """What Ray must be started with, as in the chart's pods."""
    variables = {**ENVIRONMENT, **INGRESS[settings.ingress]}
    if settings.ingress == "haproxy":
        variables |= haproxy_bounds(settings)
    return variables


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description="the chart's settings without Kubernetes")
    parser.add_argument("values", type=Path, help="a values file; of it `settings` is read")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    arguments = parser.parse_args()
    given = yaml.safe_load(arguments.values.read_text())["settings"]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "serve.yaml").write_text(json.dumps(serve_config(given), indent=2) + "\n")
    variables = environment(Settings.model_validate(given))
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in sorted(variables.items())]
    (arguments.out / "environment.sh").write_text("".join(lines))


if __name__ == "__main__":
    main()
