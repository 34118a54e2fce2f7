"""Which tasks there are: as a scenario names them, or as the server lists them."""

import json
from typing import Any
from urllib.parse import quote

from loadtest.errors import TargetError
from loadtest.outcomes import Outcome
from loadtest.scenario import Scenario
from loadtest.wire import Reply, ask, origin_of

_PAGE = 1000


async def task_names(scenario: Scenario) -> tuple[str, ...]:
    """Names of the run's tasks.

    Raises:
        TargetError: they have to be asked for, and the server does not say.
    """
    tasks = scenario.tasks
    if tasks.names:
        return tasks.names
    if tasks.pattern is not None:
        return tuple(tasks.pattern.format(i) for i in range(tasks.count))
    match scenario.target.kind:
        case "rootstock":
            found = await _ours(scenario)
        case "oip":
            index = await answered(scenario, "POST", "/v2/repository/index", b"{}")
            found = [row["name"] for row in index if row.get("state", "READY") == "READY"]
        case _:
            found = ["default"]  # where the path has no {task}, there is one
    if not found:
        raise TargetError(scenario.target.url, "the server has no task")
    if tasks.count > len(found):
        reason = f"the scenario wants {tasks.count} tasks, the server has {len(found)}"
        raise TargetError(scenario.target.url, reason)
    return tuple(found[: tasks.count or None])


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
        found += [item["task"] for item in answer["items"] if item.get("active") is not None]
        if answer["next"] is None:
            return found
        page = answer["next"]
