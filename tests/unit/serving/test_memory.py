from serving.memory import Tidier


def test_memory_goes_back_after_every_two_hundred_and_fifty_sixth_load(monkeypatch):
    tidier, trims = Tidier(), []
    tidier._trim = trims.append

    for _ in range(800):
        tidier.loaded()

    assert trims == [0, 0, 0]


def test_an_allocator_that_cannot_give_back_is_left_alone():
    tidier = Tidier()
    tidier._trim = None

    for _ in range(256):
        tidier.loaded()

    assert tidier._loads == 256
