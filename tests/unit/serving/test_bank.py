"""Banks: rows are given out once, go back when they are dropped, and survive growth."""

import gc
import threading

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from serving.engine import banks as banks_module
from serving.engine.bank import Bank
from serving.engine.copies import Copies
from serving.engine.engine import Engine
from serving.engine.layout import FormAt, Layout, Place

CPU = torch.device("cpu")
LAYOUT = Layout(
    (("t", FormAt((), (), Place(0, (2,)), None, Place(32, (3,)), Place(64, (1,)))),), 96
)


def numbers(value):
    return torch.full((96,), float(value))


class History(RuleBasedStateMachine):
    """Rows given out and dropped in any order."""

    rows = Bundle("rows")

    def __init__(self):
        super().__init__()
        self.bank, self.count, self.alive = Bank(LAYOUT, torch.float32, Copies(CPU)), 0, {}

    @rule(target=rows, how_many=st.integers(1, 12))
    def give(self, how_many):
        names = []
        for _ in range(how_many):
            self.count += 1
            self.alive[self.count] = self.bank.put(numbers(self.count))
            names.append(self.count)
        return multiple(*names)

    @rule(name=consumes(rows))
    def drop(self, name):
        del self.alive[name]

    @invariant()
    def every_row_is_its_own_and_unchanged(self):
        self.bank.check()
        taken = [row.index for row in self.alive.values()]
        assert len(set(taken)) == len(taken)
        assert 0 not in taken
        for name, row in self.alive.items():
            assert torch.equal(row.numbers, numbers(name))
            assert torch.equal(self.bank.rows[row.index], numbers(name))
        assert self.bank.idle is not bool(self.alive)

    @invariant()
    def the_identity_stays(self):
        wanted = torch.zeros(96)
        wanted[0:2] = wanted[32:35] = 1
        assert torch.equal(self.bank.rows[0], wanted)


History.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
test_rows_are_never_given_out_twice_and_keep_their_numbers = History.TestCase


def test_dropped_rows_are_given_out_again_before_a_bank_grows():
    bank = Bank(LAYOUT, torch.float32, Copies(CPU))

    for i in range(100):
        bank.put(numbers(i))

    assert len(bank.rows) == 8
    bank.check()


def test_threads_never_share_a_row():
    bank, held, errors = Bank(LAYOUT, torch.float32, Copies(CPU)), [], []

    def work(mine):
        for i in range(50):
            row = bank.put(numbers(mine * 1000 + i))
            if not torch.equal(row.numbers, numbers(mine * 1000 + i)):
                errors.append((mine, i))
            if i % 3 == 0:
                held.append((row, mine * 1000 + i))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    bank.check()
    assert not errors
    assert all(torch.equal(row.numbers, numbers(value)) for row, value in held)


@pytest.fixture
def engine(tiny):
    return Engine(tiny, banked=True)


def test_a_placed_adapter_is_what_was_prepared(tiny, engine, make_adapter):
    prepared = engine.prepare(make_adapter(tiny, "alore", effect=False))

    placed = engine.place(prepared)

    assert placed.at is not None
    assert placed.row.data_ptr() == placed.at.bank.rows[placed.at.index].data_ptr()
    assert placed.checksum() == prepared.checksum()
    assert placed.nbytes == prepared.nbytes
    assert engine.place(placed) is placed
    assert placed.to(engine.device) is placed


def test_adapters_of_one_method_share_a_bank_and_give_their_rows_back(tiny, engine, make_adapter):
    prepared = [engine.prepare(make_adapter(tiny, "lora", seed=i, effect=False)) for i in range(12)]

    placed = [engine.place(p) for p in prepared]
    bank = placed[0].at.bank

    assert {p.at.bank for p in placed} == {bank}
    assert len({p.at.index for p in placed}) == 12
    for one, other in zip(placed, prepared, strict=True):  # the bank has grown under the first
        assert one.checksum() == other.checksum()
    engine._banks.check()
    del placed, one
    gc.collect()
    assert bank.idle
    engine._banks.check()


def test_an_adapter_without_operators_needs_no_bank(tiny, engine, make_adapter):
    placed = engine.place(engine.prepare(make_adapter(tiny, "linear", effect=False)))

    assert placed.at is None
    assert engine._banks._banks == {}


def test_banks_that_hold_nothing_make_room(tiny, make_adapter, monkeypatch):
    monkeypatch.setattr(banks_module, "_BANKS_MOST", 2)
    engine = Engine(tiny, banked=True)
    kept = engine.place(engine.prepare(make_adapter(tiny, "lora", effect=False)))

    for rank in (1, 2, 3, 4):
        engine.place(engine.prepare(make_adapter(tiny, "lora", rank=rank, effect=False)))

    assert len(engine._banks._banks) == 2
    assert kept.at.bank in engine._banks._banks.values()


def test_an_engine_on_the_cpu_has_no_banks(tiny, make_adapter):
    engine = Engine(tiny)
    prepared = engine.prepare(make_adapter(tiny, "lora", effect=False))

    assert engine.place(prepared) is prepared


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_an_accelerator_rows_arrive_whole_while_batches_run(tiny, make_adapter):
    engine = Engine(tiny, "bf16", "cuda")
    pictures = np.zeros((4, 3, 32, 32), np.uint8)
    prepared = [engine.prepare(make_adapter(tiny, "lora", seed=i, effect=False)) for i in range(40)]
    first = engine.place(prepared[0])
    stop = threading.Event()

    def traffic():
        while not stop.is_set():
            engine.run(pictures, [first] * 4)

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        placed = [engine.place(p) for p in prepared]
    finally:
        stop.set()
        thread.join()

    for one, other in zip(placed, prepared, strict=True):
        assert one.checksum() == other.checksum()
    engine._banks.check()
