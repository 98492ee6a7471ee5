from __future__ import annotations

from ocspd.responder.worker import seconds


class Machine:
    """A clock that sleeping moves, `early_s` less than asked for."""

    def __init__(self, early_s: float = 0) -> None:
        self.now_s = 1000.3
        self._early_s = early_s

    def now(self) -> float:
        return self.now_s

    async def sleep(self, delay: float) -> None:
        self.now_s += max(delay - self._early_s, 0.0001)


async def test_every_second_is_told_once_even_when_timers_fire_early() -> None:
    machine = Machine(early_s=0.0004)
    told = []
    async for second in seconds(machine.now, machine.sleep):
        told.append(second)
        if len(told) == 50:
            break
    assert told == list(range(1001, 1051))


async def test_a_clock_that_is_set_back_goes_on_from_there() -> None:
    machine = Machine()
    told = []
    async for second in seconds(machine.now, machine.sleep):
        told.append(second)
        if second == 1002:
            machine.now_s -= 100
        if len(told) == 5:
            break
    assert told == [1001, 1002, 903, 904, 905]
