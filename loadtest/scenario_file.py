"""Scenarios from TOML files, bundled or the user's own, and settings over them."""

import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from loadtest.errors import ScenarioError
from loadtest.limits import check_names
from loadtest.scenario import Scenario
from loadtest.trace import text_of


def bundled() -> tuple[str, ...]:
    """Names of the scenarios that come along."""
    folder = resources.files("loadtest") / "scenarios"
    names = (file.name for file in folder.iterdir())
    return tuple(sorted(n.removesuffix(".toml") for n in names if n.endswith(".toml")))


def load(name: str, settings: Sequence[str] = ()) -> Scenario:
    """A bundled scenario by its name, or a file; `settings` are `key.of.table=value`.

    Raises:
        ScenarioError: with everything that is wrong.
        OSError
    """
    if name in bundled():
        text = (resources.files("loadtest") / "scenarios" / f"{name}.toml").read_text()
    elif Path(name).suffix == ".toml" or Path(name).exists():
        text = text_of(Path(name))
    else:
        fault = f"no such scenario or file; bundled are {', '.join(bundled())}"
        raise ScenarioError(name, (fault,))
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(name, (f"no TOML: {error}",)) from None
    value.setdefault("name", Path(name).stem)
    for setting in settings:
        _put(value, setting)
    return made(name, value)


def made(name: str, value: dict[str, Any]) -> Scenario:
    """The scenario of a value.

    Raises:
        ScenarioError: with everything that is wrong.
    """
    try:
        scenario = Scenario.model_validate(value)
    except ValidationError as error:
        faults = tuple(
            f"{'.'.join(map(str, fault['loc'])) or 'scenario'}: {_words(fault)}"
            for fault in error.errors(include_url=False, include_input=False)
        )
        raise ScenarioError(name, faults) from None
    check_names(scenario.slo.limits)
    return scenario


def _words(fault: Any) -> str:
    unknown = fault["type"] == "extra_forbidden"
    return (
        "there is no such setting" if unknown else str(fault["msg"]).removeprefix("Value error, ")
    )


def _put(value: dict[str, Any], setting: str) -> None:
    """One `a.b=c` into nested tables; c is TOML, or else the text itself."""
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise ScenarioError(setting, ("a setting is key=value, such as arrivals.rate=50",))
    try:
        found = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        found = text
    *tables, last = key.strip().split(".")
    for table in tables:
        inner = value.setdefault(table, {})
        if not isinstance(inner, dict):
            raise ScenarioError(setting, (f"{table} is no table",))
        value = inner
    value[last] = found
