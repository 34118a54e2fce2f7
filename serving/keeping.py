"""Having a task in memory, or not, because somebody says so. Knows follower and residency, no HTTP.

Whether a task is answered does not depend on it: what is not in memory is loaded when it is asked
for. It decides who waits for that.
"""

from concurrent.futures import TimeoutError as LateError

from adapters_store.catalog import resolve
from adapters_store.errors import AdapterError, RootstockError
from serving.errors import DeadlineError, ReleaseFailedError
from serving.sync import Follower
from serving.types import Arriving


def load(
    follower: Follower, residency: Arriving, task: str, timeout_s: float
) -> RootstockError | None:
    """Read the log, then have the task's active release in host memory and verified; blocking.

    Returns:
        Why it is not, or None: an error that is raised is lost on its way between replicas.
    """
    follower.catch_up()
    try:
        release = resolve(follower.view.catalog, task)
    except RootstockError as error:
        return error
    try:
        residency.expect(release.digest).result(timeout_s)
    except AdapterError:
        return ReleaseFailedError(release.task, release.number)
    except RootstockError as error:
        return error
    except LateError:
        return DeadlineError(timeout_s)
    follower.passed(release.task, release.digest)
    return None


def unload(follower: Follower, residency: Arriving, task: str) -> RootstockError | None:
    """Let every release of a task go from slots and host memory; requests bring them back."""
    try:
        state = follower.view.catalog.task(task)
    except RootstockError as error:
        return error
    residency.forget({release.digest for release in state.releases})
    return None
