"""Beat: whoever looks again and again for what another process has changed does so when the others do.

Waking up is what looking costs: a process that sleeps is woken four times a second for all who look, instead of each of
them at a moment of its own, so that a mount that nobody uses leaves the processor alone.
"""

import trio

BEAT_SECONDS = 0.25


async def beat() -> None:
    """Returns at the next beat, the same for everybody in this process: within BEAT_SECONDS, half of that on average."""
    await trio.sleep_until((trio.current_time() // BEAT_SECONDS + 1) * BEAT_SECONDS)
