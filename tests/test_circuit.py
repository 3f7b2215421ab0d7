"""Circuit: waits for a tier that is away, knows when not to ask, and never waits longer than it was told."""

import math

import pytest
import trio
import trio.testing

from lfsfs.errors import LocalDamage, NotFound, Unavailable
from lfsfs.store.circuit import FAILURES, Circuit


class Away:
    """Work and probe of a tier that is back at a given time."""

    def __init__(self, back: float) -> None:
        self.back = back
        self.asked = 0

    async def __call__(self) -> None:
        self.asked += 1
        await trio.sleep(0.01)
        if trio.current_time() < self.back:
            raise Unavailable("away")


async def test_it_waits_for_ever_where_it_may(autojump_clock: trio.testing.MockClock) -> None:
    tier = Away(trio.current_time() + 3600)
    circuit = Circuit(tier)
    await circuit.call(tier, math.inf)
    assert not circuit.is_open
    assert tier.asked < 2 * 3600  # a probe about once a second, not a storm


async def test_it_fails_by_the_deadline_and_works_again(autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    tier = Away(start + 20)
    circuit = Circuit(tier)
    with pytest.raises(Unavailable):
        await circuit.call(tier, 5)
    assert 5 <= trio.current_time() - start < 5.1
    assert circuit.is_open
    with pytest.raises(Unavailable):
        await circuit.call(tier, 0)
    assert trio.current_time() - start < 5.1
    await circuit.call(tier, 60)
    assert not circuit.is_open


async def test_while_it_is_open_one_probe_goes_for_all_who_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tier = Away(trio.current_time() + 100)
    circuit = Circuit(tier)
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(circuit.call, tier, math.inf)
    assert tier.asked < 50 * (FAILURES + 1) + 200


async def test_a_prober_that_is_cancelled_holds_nobody_up(autojump_clock: trio.testing.MockClock) -> None:
    answers = False

    async def probe() -> None:
        if not answers:
            await trio.sleep_forever()

    circuit = Circuit(probe)
    circuit.failures = FAILURES
    with trio.move_on_after(1) as scope:
        await circuit.call(probe, math.inf)
    assert scope.cancelled_caught
    answers = True
    with trio.fail_after(10):
        await circuit.call(probe, math.inf)


async def test_an_error_that_is_an_answer_closes_it(autojump_clock: trio.testing.MockClock) -> None:
    async def absent() -> None:
        raise NotFound("no such thing")

    circuit = Circuit(absent)
    circuit.failures = FAILURES
    with pytest.raises(NotFound):
        await circuit.call(absent, 10)
    assert not circuit.is_open


async def test_damage_on_the_local_disk_is_no_answer(autojump_clock: trio.testing.MockClock) -> None:
    async def damaged() -> None:
        raise LocalDamage("the copy here is damaged")

    circuit = Circuit(damaged)
    circuit.failures = FAILURES - 1
    circuit.last_error = "nobody answers"
    with pytest.raises(LocalDamage):
        await circuit.call(damaged, 1)
    assert circuit.failures == FAILURES - 1
    assert circuit.last_error == "nobody answers"
