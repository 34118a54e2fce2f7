"""Runs load tests for the command: signals, progress on stderr, exit codes. Knows no option."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from rootstock.console import fail, guarded

if TYPE_CHECKING:
    from loadtest.hits import Hits
    from loadtest.plan import Plan
    from loadtest.scenario import Scenario

P = ParamSpec("P")
R = TypeVar("R")

MISSED: Final = 3  # a limit was not kept
INVALID: Final = 4  # the client fell behind: figures say nothing about the server
BROKEN_OFF: Final = 130

_LINE_S: Final = 1.0
_PLAIN_LINE_S: Final = 5.0


def told(command: Callable[P, R]) -> Callable[P, R]:
    """Refusals as one line; a Ctrl-C that could not be waited for ends the command."""

    @guarded
    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        from loadtest.errors import LoadtestError

        try:
            return command(*args, **kwargs)
        except LoadtestError as error:
            fail(str(error))
        except (KeyboardInterrupt, asyncio.CancelledError):
            fail("broken off", BROKEN_OFF)

    return run


def say(line: str) -> None:
    """One line on stderr: stdout is for results."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def interruptible(work: Callable[[asyncio.Event], Coroutine[Any, Any, R]]) -> R:
    """Run to the end; the first Ctrl-C asks for an early one, the second takes it."""

    async def main() -> R:
        stop = asyncio.Event()
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()

        def asked() -> None:
            if stop.is_set():
                task.cancel()
            stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, asked)
        return await work(stop)

    return asyncio.run(main())


async def attacked(scenario: "Scenario", stop: asyncio.Event, *, quiet: bool) -> "Hits":
    """One run with its progress."""
    from loadtest.attack import attack
    from loadtest.progress import Progress

    progress = Progress(scenario.duration_s)

    def begun(plan: "Plan") -> None:
        progress.begin()
        if not quiet:
            say(_announced(scenario, plan))

    with _showing(progress, scenario.workers, quiet=quiet):
        return await attack(scenario, tick=progress.tick, begun=begun, stop=stop)


def _announced(scenario: "Scenario", plan: "Plan") -> str:
    if scenario.closed:
        how = "closed loop"
    else:
        how = f"{len(plan)} requests, {len(plan) / scenario.duration_s:.1f}/s"
    return (
        f"{scenario.name}: {how}, {plan.known} tasks, effective number {plan.effective:.1f}, "
        f"{scenario.workers} client process(es), seed {scenario.seed} -> {scenario.target.url}"
    )


@contextlib.contextmanager
def _showing(progress: Any, processes: int, *, quiet: bool) -> Iterator[None]:
    """A line that is written over on a terminal, and plain lines elsewhere."""
    on_terminal = sys.stderr.isatty()

    async def show() -> None:
        while True:
            await asyncio.sleep(_LINE_S if on_terminal else _PLAIN_LINE_S)
            if not progress.begun:
                continue
            line = progress.line(processes)
            if on_terminal:
                sys.stderr.write(f"\r\x1b[2K{line}")
                sys.stderr.flush()
            else:
                say(line)

    if quiet:
        yield
        return
    showing = asyncio.ensure_future(show())
    try:
        yield
    finally:
        showing.cancel()
        if on_terminal:
            say("")
