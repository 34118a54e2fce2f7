"""Which tasks there are: as a scenario names them, or as the server lists them."""

import json
from typing import Any
from urllib.parse import quote

from loadtest.errors import ScenarioError, TargetError
from loadtest.outcomes import Outcome
from loadtest.scenario import Scenario
from loadtest.targets.protocol import UNREADABLE
from loadtest.wire import Reply, ask, origin_of

_PAGE = 1000


async def task_names(scenario: Scenario) -> tuple[str, ...]:
    """Names of the run's tasks.

    Raises:
        TargetError: they have to be asked for, and the server does not say.
        ScenarioError: there is no way to ask.
    """
    tasks = scenario.tasks
    if tasks.names:
        return tasks.names
    if tasks.pattern is not None:
        return tuple(tasks.pattern.format(i) for i in range(tasks.count))
    try:
        found = await _listed(scenario)
    except UNREADABLE:
        raise TargetError(scenario.target.url, "its list of tasks is none") from None
    if not found:
        raise TargetError(scenario.target.url, "the server has no task")
    if tasks.count > len(found):
        reason = f"the scenario wants {tasks.count} tasks, the server has {len(found)}"
        raise TargetError(scenario.target.url, reason)
    return tuple(found[: tasks.count or None])


async def _listed(scenario: Scenario) -> list[str]:
    match scenario.target.kind:
        case "rootstock":
            return await _ours(scenario)
        case "oip":
            index = await answered(scenario, "POST", "/v2/repository/index", b"{}")
            return [str(row["name"]) for row in index if row.get("state", "READY") == "READY"]
        case _ if scenario.target.names_task:
            raise ScenarioError(scenario.name, ("tasks.names are wanted: nobody can be asked",))
        case _:
            return ["default"]  # a request does not say which


async def answered(scenario: Scenario, method: str, path: str, body: bytes = b"") -> Any:
    """The JSON of an answer that has to be a success.

    Raises:
        TargetError: it is none.
    """
    origin = origin_of(scenario.target.url)
    headers = {"Content-Type": "application/json", **scenario.target.headers}
    reply = await ask(
        origin, method, path, headers=headers, body=body, timeout_s=scenario.timeout_s
    )
    if isinstance(reply, Outcome):
        reason = f"{method} {path}: no answer ({reply.name.lower()})"
        raise TargetError(scenario.target.url, reason)
    if reply.status != 200:
        raise TargetError(scenario.target.url, f"{method} {path}: {words(reply)}")
    try:
        return json.loads(reply.body)
    except ValueError:
        raise TargetError(scenario.target.url, f"{method} {path}: no JSON") from None


def words(reply: Reply) -> str:
    """Status and first words of a refusal."""
    text = reply.body[:200].decode(errors="replace")
    return f"{reply.status} {' '.join(text.split())}"


async def _ours(scenario: Scenario) -> list[str]:
    found: list[str] = []
    page = ""
    while True:
        answer = await answered(
            scenario, "GET", f"/v1/tasks?limit={_PAGE}&page={quote(page, safe='')}"
        )
        found += [str(i["task"]) for i in answer["items"] if i.get("active") is not None]
        if answer["next"] is None:
            return found
        page = answer["next"]
