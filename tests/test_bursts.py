"""What can wait lets a crowd of small files pass: not for ever, and not while somebody waits for the work itself."""

import pytest
import trio
import trio.testing

from lfsfs.store.bursts import FILES, LONGEST_SECONDS, Bursts

MOMENT = 0.01


async def waited(bursts: Bursts, *, files: int) -> float:
    """How long the work lets so many files pass, which come one each moment, and have begun to."""
    for _ in range(FILES):
        bursts.arrived()
    begun = trio.current_time()

    async def arrive() -> None:
        for _ in range(files):
            bursts.arrived()
            await trio.sleep(MOMENT)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(arrive)
        await bursts.pass_by()
        passed = trio.current_time() - begun
        nursery.cancel_scope.cancel()
    return passed


async def test_a_burst_is_let_pass_until_it_is_over(autojump_clock: trio.testing.MockClock) -> None:
    assert await waited(Bursts(), files=100) == pytest.approx(100 * MOMENT, abs=0.3)


async def test_one_without_an_end_is_let_pass_for_a_while_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bursts = Bursts()
    assert await waited(bursts, files=10_000) == pytest.approx(LONGEST_SECONDS, abs=0.3)
    assert await waited(bursts, files=100) == 0


async def test_who_waits_for_the_work_gets_it_done_and_then_bursts_pass_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bursts = Bursts()
    bursts.go_on()
    assert await waited(bursts, files=100) == 0
    bursts.done()
    assert await waited(bursts, files=100) > 50 * MOMENT
