"""Those who look again and again for what others changed are woken together, and soon enough."""

import trio

from lfsfs.store.beat import BEAT_SECONDS, beat


async def test_whoever_waits_is_woken_at_the_same_moment_and_within_a_beat() -> None:
    woken: list[float] = []

    async def look(after: float) -> None:
        await trio.sleep(after)
        begun = trio.current_time()
        await beat()
        woken.append(trio.current_time())
        assert woken[-1] - begun < BEAT_SECONDS + 0.2  # a busy machine

    async with trio.open_nursery() as nursery:
        await beat()
        for after in (0.0, 0.03, 0.06):
            nursery.start_soon(look, after)
    assert max(woken) - min(woken) < 0.05
