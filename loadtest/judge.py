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
from loadtest.promises import Mark, Promises
from loadtest.scenario import Checks
from loadtest.targets.protocol import UNREADABLE, Answer, Said, Target
from loadtest.wire import Reply

_REFUSALS: Final[Mapping[int, tuple[int, ...]]] = {
    Want.UNKNOWN: (404,),
    Want.UNDECODABLE: (400, 415, 422),
}
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
        self, tasks: Sequence[int], image: int, want: int, mark: Mark, reply: Reply
    ) -> Verdict:
        """Of a reply to a request for these tasks; `mark` is what `promises` said as it left.

        Whatever the reply is, there is a verdict.
        """
        try:
            if 200 <= reply.status < 300:
                answer = self._target.read(reply.headers, reply.body)
                return self._answered(tasks, image, want, mark, answer)
            return self._refused(tasks, want, mark, reply.status), Wrong.NO
        except UNREADABLE:
            return Outcome.BAD_BODY, Wrong.NO

    def _refused(self, tasks: Sequence[int], want: int, mark: Mark, status: int) -> Outcome:
        """Where nothing of a request was answered."""
        if want == Want.UNDECODABLE or len(tasks) == 1:
            places = mark.places or (0,) * len(tasks)
            gone = any(map(self.promises.gone, tasks, places))
            if status in _REFUSALS.get(want, ()) or (status == 404 and gone):
                return Outcome.EXPECTED
        return of_status(status)

    def _answered(
        self, tasks: Sequence[int], image: int, want: int, mark: Mark, answer: Answer
    ) -> Verdict:
        """Of an answer, task by task; the first fault decides."""
        if len(answer.said) != len(tasks):
            return Outcome.WRONG, Wrong.TASK
        if answer.generation is not None and answer.generation < mark.generation:
            return Outcome.WRONG, Wrong.STALE
        places = mark.places or (0,) * len(tasks)
        answered = 0
        for i, (task, place, said) in enumerate(zip(tasks, places, answer.said, strict=True)):
            # Of several tasks it is the first that there is not.
            refusals = () if want == Want.UNKNOWN and i else _REFUSALS.get(want, ())
            if said.status >= 300:
                gone = said.status == 404 and self.promises.gone(task, place)
                if said.status not in refusals and not gone:
                    return of_status(said.status), Wrong.NO
                continue
            wrong = Wrong.ANSWERED if refusals else self._wrong(task, image, said, place)
            if wrong:
                return Outcome.WRONG, wrong
            header = None if answered or not self._checks.digests else answer.header_digest
            if header is not None and header != said.digest:  # it is that of the first answer
                return Outcome.WRONG, Wrong.DIGEST
            answered += 1
        fine = Outcome.OK if want == Want.PREDICTION and answered else Outcome.EXPECTED
        return fine, Wrong.NO

    def _wrong(self, task: int, image: int, said: Said, place: int) -> Wrong:
        name = self._names[task]
        if said.task is not None and said.task != name.partition("@")[0]:
            return Wrong.TASK
        if said.release is not None:
            if self.promises.broken(task, place, said.release):
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
        value = json.loads(Path(checks.file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
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
