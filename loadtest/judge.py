"""Whether an answer is the truth. Pure but for what it remembers of earlier answers.

An adapter's digest and an image decide the label: the first answer of a pair, or the one that was
learned before the load, is what all later ones are held to.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from loadtest.errors import ScenarioError
from loadtest.outcomes import Outcome, Wrong, of_status
from loadtest.plan import Want
from loadtest.promises import Promises
from loadtest.scenario import Checks
from loadtest.targets.protocol import Answer, Said, Target
from loadtest.wire import Reply

_REFUSALS: Final = {Want.UNKNOWN: (404,), Want.UNDECODABLE: (400, 415, 422)}
_UNREADABLE: Final = (ValueError, KeyError, TypeError, IndexError, AttributeError)
Verdict = tuple[Outcome, Wrong]


class Judge:
    """Of one client process."""

    def __init__(
        self,
        checks: Checks,
        target: Target,
        names: Sequence[str],
        images: Sequence[str],
        learned: Mapping[tuple[str, int], tuple[str, float]],
    ) -> None:
        """Nothing is asked.

        Args:
            checks: what to hold answers to.
            target: whose answers.
            names: of tasks.
            images: names of the pool's.
            learned: (digest or task, image) → (label, margin).

        Raises:
            ScenarioError: the file of labels is none.
        """
        self._checks, self._target, self._names = checks, target, names
        self._labels = dict(learned)
        self._digests: dict[tuple[str, int], str] = {}
        self._expected = _expected(checks, names, images)
        self.promises = Promises()

    def verdict(
        self, tasks: Sequence[int], image: int, want: int, mark: int, reply: Reply
    ) -> Verdict:
        """Of a reply to a request for these tasks; `mark` is of the first, from `promises`."""
        if want in _REFUSALS:
            return self._refused(tasks, want, reply)
        if not 200 <= reply.status < 300:
            gone = reply.status == 404 and mark and not self.promises.broken(tasks[0], mark, None)
            return (Outcome.EXPECTED if gone else of_status(reply.status)), Wrong.NO
        try:
            answer = self._target.read(reply.headers, reply.body)
        except _UNREADABLE:
            return Outcome.BAD_BODY, Wrong.NO
        return self._answered(tasks, image, mark, answer)

    def _answered(self, tasks: Sequence[int], image: int, mark: int, answer: Answer) -> Verdict:
        """Of an answer, task by task; the first fault decides."""
        if len(answer.said) != len(tasks):
            return Outcome.WRONG, Wrong.TASK
        for task, said in zip(tasks, answer.said, strict=True):
            if said.status >= 300:
                return of_status(said.status), Wrong.NO
            wrong = self._wrong(task, image, said, mark if len(tasks) == 1 else 0)
            if wrong:
                return Outcome.WRONG, wrong
        header = answer.header_digest
        if self._checks.digests and header is not None and header != answer.said[0].digest:
            return Outcome.WRONG, Wrong.DIGEST
        return Outcome.OK, Wrong.NO

    def _refused(self, tasks: Sequence[int], want: int, reply: Reply) -> Verdict:
        """Where a refusal is the right answer; for several tasks the first has to be refused."""
        status = reply.status
        if 200 <= status < 300 and len(tasks) > 1:
            try:
                status = self._target.read(reply.headers, reply.body).said[0].status
            except _UNREADABLE:
                return Outcome.BAD_BODY, Wrong.NO
        if status in _REFUSALS[Want(want)]:
            return Outcome.EXPECTED, Wrong.NO
        if 200 <= status < 300:
            return Outcome.WRONG, Wrong.ANSWERED
        return of_status(status), Wrong.NO

    def _wrong(self, task: int, image: int, said: Said, mark: int) -> Wrong:
        name = self._names[task]
        if said.task is not None and said.task != name.partition("@")[0]:
            return Wrong.TASK
        if said.release is not None:
            if mark and self.promises.broken(task, mark, said.release):
                return Wrong.STALE
            if self._checks.digests and said.digest is not None:
                known = self._digests.setdefault((name, said.release), said.digest)
                if known != said.digest:
                    return Wrong.DIGEST
        return Wrong.LABEL if self._mislabelled(name, image, said) else Wrong.NO

    def _mislabelled(self, name: str, image: int, said: Said) -> bool:
        if said.label is None:
            return False
        if self._checks.labels == "file":
            expected = self._expected.get((name, image))
            return expected is not None and expected != said.label
        if self._checks.labels == "none":
            return False
        label, margin = self._labels.setdefault(
            (said.digest or name, image), (said.label, said.margin)
        )
        near = min(margin, said.margin) < self._checks.margin
        return label != said.label and not near


def _expected(
    checks: Checks, names: Sequence[str], images: Sequence[str]
) -> dict[tuple[str, int], str]:
    if checks.file is None:
        return {}
    try:
        value = json.loads(Path(checks.file).read_text())
    except ValueError:
        value = None
    if not isinstance(value, dict) or not all(isinstance(of, dict) for of in value.values()):
        raise ScenarioError(checks.file, ("it is not JSON of {task: {image: label}}",))
    place = {name: i for i, name in enumerate(images)}
    return {
        (task, place[image]): str(label)
        for task in names
        for image, label in value.get(task, {}).items()
        if image in place
    }
