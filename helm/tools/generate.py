"""Writes what the chart holds of the code: `python -m helm.tools.generate`, or `--check`.

Values, their schema and their table come from `helm.tools.values`, environment and edges from the
server's tables, the dashboard from `helm.tools.dashboard`. Knows no template.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from helm.tools import dashboard
from helm.tools.values import Values
from serving.app import ENVIRONMENT, INGRESS
from serving.config import Settings
from serving.problems import STATUS, status_of
from serving.telemetry import SECONDS

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "helm" / "rootstock"
_OF_THE_SERVER: Final = {"Settings", "Token"}
_BEGIN, _END = "<!-- {} begin: written by helm/tools/generate.py -->", "<!-- {} end -->"


def files() -> dict[Path, str]:
    """Every generated file and its text."""
    readme = (CHART / "README.md").read_text()
    readme = _between(readme, "values", _table(_rows(Values)))
    readme = _between(readme, "settings", _table(_rows(Settings)))
    return {
        CHART / "values.yaml": values(),
        CHART / "values.schema.json": _json(schema()),
        CHART / "files" / "generated.json": _json(of_the_server()),
        CHART / "files" / "dashboard.json": _json(dashboard.built()),
        CHART / "README.md": readme,
    }


def schema() -> dict[str, Any]:
    """Of the values, in the dialect that Helm reads; the part `settings` is the server's model."""
    whole = Values.model_json_schema(ref_template="#/definitions/{model}")
    definitions = whole.pop("$defs")
    for name, part in {**definitions, "": whole}.items():
        if name not in _OF_THE_SERVER:
            # Every value has a default, which Helm drops where null is given: that is refused.
            fields = part["properties"].items()
            part["required"] = [name for name, rule in fields if rule.get("default", 0) is not None]
    # Helm merges what is given over the defaults, and `global` is its own.
    whole["properties"]["global"] = {"type": "object"}
    plain: dict[str, Any] = _without_titles({**whole, "definitions": definitions})
    return {"$schema": "http://json-schema.org/draft-07/schema#", **plain}


def of_the_server() -> dict[str, Any]:
    """What templates need to know of the server: literal tables, and the version of Ray."""
    lock = (ROOT / "requirements.lock").read_text()
    ray = re.search(r"^ray==(\S+)", lock, re.MULTILINE)
    assert ray is not None
    failures = {code for status, code in STATUS.values() if status >= 500}
    return {
        "ray": ray[1],
        "settings": Settings(store="").model_dump(mode="json", exclude={"store"}),
        "environment": dict(ENVIRONMENT),
        "ingress": {name: dict(flags) for name, flags in INGRESS.items()},
        "failures": sorted(failures | {status_of(Exception())[1]}),
        "edges": {f"{edge:g}": repr(float(edge)) for edge in SECONDS},
    }


def values() -> str:
    """Every value with its default, and what it is."""
    head = "# Written by helm/tools/generate.py from helm/tools/values.py.\n"
    return head + "\n".join(_lines(Values(), "")) + "\n"


def _lines(value: BaseModel, indent: str) -> Iterator[str]:
    for name, field in type(value).model_fields.items():
        inner = getattr(value, name)
        for comment in _said(field, inner):
            yield f"{indent}# {comment}"
        if isinstance(inner, Settings):
            yield f"{indent}{name}:"
            for key in sorted(inner.model_fields_set):
                yield f"{indent}  {key}: {json.dumps(getattr(inner, key))}"
        elif isinstance(inner, BaseModel):
            yield f"{indent}{name}:"
            yield from _lines(inner, indent + "  ")
        else:
            yield f"{indent}{name}: {json.dumps(inner)}"


def _said(field: FieldInfo, value: Any) -> list[str]:
    text = field.description or ""
    if not text and isinstance(value, BaseModel):
        text = " ".join((type(value).__doc__ or "").split())
    return [text] if text else []


def _rows(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Name, default and description of every leaf."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not Settings:
            yield from _rows(kind, f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            default = default.model_dump(mode="json", include=default.model_fields_set)
        shown = "" if field.is_required() else f"`{json.dumps(_plain(default))}`"
        yield f"`{prefix}{name}`", shown, _choices(kind) + (field.description or "")


def _choices(kind: Any) -> str:
    words = [word for word in get_args(kind) if isinstance(word, str)]
    return f"one of {', '.join(words)}. " if words else ""


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | frozenset) else value


def _table(rows: Iterator[tuple[str, str, str]]) -> str:
    lines = ["| name | default | what |", "|---|---|---|"]
    lines += [f"| {name} | {default} | {what} |".replace("  ", " ") for name, default, what in rows]
    return "\n".join(lines)


def _between(text: str, mark: str, inner: str) -> str:
    begin, end = _BEGIN.format(mark), _END.format(mark)
    before, rest = text.split(begin)
    return f"{before}{begin}\n{inner}\n{end}{rest.split(end)[1]}"


def _without_titles(value: Any, *, names: bool = False) -> Any:
    """A schema without the titles that pydantic makes of names; `names` marks a map of fields."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if names or k != "title"}
        maps = ("properties", "definitions")
        return {
            k: _without_titles(v, names=not names and k in maps) for k, v in sorted(kept.items())
        }
    return [_without_titles(v) for v in value] if isinstance(value, list) else value


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write, or say which files differ and fail."""
    parser = argparse.ArgumentParser(description="the generated parts of the chart")
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = [p for p, text in files().items() if not p.exists() or p.read_text() != text]
    if check and stale:
        names = ", ".join(str(p.relative_to(ROOT)) for p in stale)
        sys.exit(f"differs from the code, run `python -m helm.tools.generate`: {names}")
    for path in stale:
        path.write_text(files()[path])


if __name__ == "__main__":
    main()
