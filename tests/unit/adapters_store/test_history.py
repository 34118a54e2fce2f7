"""Any history of one store against a model that is nothing but dictionaries."""

import hashlib
import uuid
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from adapters_store.catalog import Catalog, fold, fold_all, resolve
from adapters_store.errors import (
    PreconditionFailedError,
    ReleaseInUseError,
    ReleaseNotFoundError,
    SplitInvalidError,
    TaskNotFoundError,
)
from adapters_store.log import Log
from adapters_store.objects import Objects
from adapters_store.snapshot import catalog_from_json, catalog_to_json
from adapters_store.store import AdapterStore

FOLDER = "0123456789abcdef"
TASKS = st.sampled_from(["flowers", "trees"])
NUMBERS = st.integers(1, 4)
ALIASES = st.sampled_from(["stable", "next"])


@dataclass
class Task:
    """What a task ought to be."""

    live: dict[int, bytes] = field(default_factory=dict)
    given: int = 0  # the highest number ever
    active: int | None = None
    aliases: dict[str, int] = field(default_factory=dict)
    split: dict[int, int] = field(default_factory=dict)
    retired: bool = False


class History(RuleBasedStateMachine):
    """Rules are what users may do, allowed or not; the model says what must come of it."""

    @initialize()
    def begin(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("adapters_store.log.SNAPSHOT_EVERY", 5)
        self.uri = f"memory://{uuid.uuid4()}"
        self.store = self.opened()
        self.tasks: dict[str, Task] = {}
        self.generation = 0
        self.followed = Catalog()

    def opened(self) -> AdapterStore:
        return AdapterStore.open(self.uri, FOLDER)

    def expect(self, name: str, number: int | None = None) -> type[Exception] | None:
        """The error that naming this release deserves."""
        task = self.tasks.get(name)
        if task is None or task.retired:
            return TaskNotFoundError
        return ReleaseNotFoundError if number and number not in task.live else None

    def change(self, error: type[Exception] | None, method: str, *words: object) -> Task | None:
        """Do it; the task to change in the model, if it was allowed."""
        act = getattr(self.store, method)
        if error:
            with pytest.raises(error):
                act(*words, by="ann")
            return None
        self.generation += 1
        assert act(*words, by="ann") == self.generation
        return self.tasks[words[0]]

    @rule(name=TASKS, data=st.sampled_from([b"1", b"2", b"3"]), activate=st.booleans())
    def publish(self, name: str, data: bytes, activate: bool) -> None:
        task = self.tasks.setdefault(name, Task())
        number = next((n for n, held in task.live.items() if held == data), None)
        created = number is None
        if number is None:
            number = task.given = task.given + 1
            task.live[number], task.retired = data, False
        changes = created or (activate and (task.active != number or bool(task.split)))
        self.generation += changes
        if activate:
            task.active, task.split = number, {}

        done = self.store.publish(data, name, by="ann", activate=activate)

        assert (done.release.number, done.created) == (number, created)
        assert done.generation == self.generation or not changes

    @rule(name=TASKS, number=NUMBERS)
    def activate(self, name: str, number: int) -> None:
        task = self.change(self.expect(name, number), "activate", name, number)
        if task:
            task.active, task.split = number, {}

    @rule(name=TASKS, alias=ALIASES, number=NUMBERS)
    def alias(self, name: str, alias: str, number: int) -> None:
        task = self.change(self.expect(name, number), "alias", name, alias, number)
        if task:
            task.aliases[alias] = number

    @rule(name=TASKS, alias=ALIASES)
    def clear_alias(self, name: str, alias: str) -> None:
        error = self.expect(name)
        if not error and alias not in self.tasks[name].aliases:
            error = ReleaseNotFoundError
        task = self.change(error, "alias", name, alias, None)
        if task:
            del task.aliases[alias]

    @rule(name=TASKS, weights=st.dictionaries(NUMBERS, st.integers(0, 9), max_size=3))
    def split(self, name: str, weights: dict[int, int]) -> None:
        error = self.expect(name)
        if not error and not weights:
            error = SplitInvalidError
        for number, weight in weights.items():
            if not error:
                error = self.expect(name, number) if weight else SplitInvalidError
        task = self.change(error, "split", name, weights)
        if task:
            task.split = weights

    @rule(name=TASKS, number=NUMBERS)
    def retire_release(self, name: str, number: int) -> None:
        error = self.expect(name, number)
        task = self.tasks.get(name)
        if not error and task:
            used = {task.active, *task.aliases.values(), *task.split}
            error = ReleaseInUseError if number in used else None
        task = self.change(error, "retire", name, number)
        if task:
            del task.live[number]

    @rule(name=TASKS)
    def retire_task(self, name: str) -> None:
        task = self.change(self.expect(name), "retire", name)
        if task:
            self.tasks[name] = Task(given=task.given, retired=True)

    @precondition(lambda self: self.generation)
    @rule(name=TASKS, behind=st.integers(1, 3))
    def write_on_stale_knowledge(self, name: str, behind: int) -> None:
        state = self.opened().catalog().tasks.get(name)
        if state and not state.retired:
            with pytest.raises(PreconditionFailedError):
                self.store.retire(name, by="ann", if_match=state.generation - behind)

    @rule()
    def come_back_in_another_process(self) -> None:
        self.store = self.opened()

    @rule()
    def collect(self) -> None:
        self.store.gc()

    @invariant()
    def readers_see_the_model(self) -> None:
        """Whether they read on, begin with a snapshot, or ask the writer."""
        self.followed = self.opened().catch_up(self.followed).catalog
        catalog = self.opened().catalog()
        catalog.check()

        assert catalog == self.followed == self.store.catalog()
        assert catalog.generation == self.generation
        assert {n: t for n, t in catalog.tasks.items() if t.releases}.keys() == self.tasks.keys()
        for name, task in self.tasks.items():
            state = catalog.tasks[name]
            live = {r.number: r.digest for r in state.releases if not r.retired}
            wanted = {n: hashlib.sha256(data).hexdigest() for n, data in task.live.items()}
            assert live == wanted
            assert [r.number for r in state.releases] == [*range(1, task.given + 1)]
            assert (state.active, state.aliases, state.split, state.retired) == (
                task.active,
                task.aliases,
                task.split,
                task.retired,
            )
            for ref, number in ((name, task.active), *((f"{name}@{n}", n) for n in task.live)):
                if number:
                    assert resolve(catalog, ref).number == number
            if task.split:
                assert resolve(catalog, name, "a key").number in task.split

    def teardown(self) -> None:
        """The whole log, folded at once, one by one, and through a snapshot at every place."""
        if not hasattr(self, "store"):
            return
        self.patch.undo()
        events, blocked = Log(Objects.open(self.uri, FOLDER)).read(0)
        assert (len(events), blocked) == (self.generation, None)
        catalog = Catalog()
        for n, event in enumerate(events, 1):
            catalog = catalog_from_json(catalog_to_json(fold(catalog, event)))
            assert catalog == fold_all(Catalog(), events[:n])
        assert catalog == self.followed
        assert self.opened().verify().faults == ()


History.TestCase.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
TestAnyHistory = History.TestCase
