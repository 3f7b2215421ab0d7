"""Shared: one piece of work for all who ask at once, whoever of them is cancelled."""

import pytest
import trio
import trio.testing

from lfsfs.errors import NotFound
from lfsfs.store.shared import Shared


async def test_all_who_ask_get_the_result_of_one_piece_of_work(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shared: Shared[int] = Shared()
    begun, results = 0, []

    async def work() -> int:
        nonlocal begun
        begun += 1
        await trio.sleep(1)
        return 7

    async def ask() -> None:
        results.append(await shared.do("key", work))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
    assert (begun, results) == (1, [7] * 5)
    await ask()
    assert begun == 2


async def test_an_error_is_everybodys_error(autojump_clock: trio.testing.MockClock) -> None:
    shared: Shared[int] = Shared()
    failures = 0

    async def work() -> int:
        await trio.sleep(1)
        raise NotFound("gone")

    async def ask() -> None:
        nonlocal failures
        with pytest.raises(NotFound, match="gone"):
            await shared.do("key", work)
        failures += 1

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
    assert failures == 5


async def test_work_cancelled_with_who_began_it_is_begun_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    shared: Shared[int] = Shared()
    begun, results = 0, []

    async def work() -> int:
        nonlocal begun
        begun += 1
        await trio.sleep(10)
        return begun

    async def ask(patience: float) -> None:
        with trio.move_on_after(patience):
            results.append(await shared.do("key", work))

    async with trio.open_nursery() as nursery:
        for patience in (1.0, 2.0, 3.0, 100.0, 100.0):
            nursery.start_soon(ask, patience)
            await trio.testing.wait_all_tasks_blocked()
    assert len(results) == 2
    assert results[0] == results[1]
