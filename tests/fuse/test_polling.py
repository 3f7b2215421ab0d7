"""The next request is awaited awake where requests follow one upon the other, and never for long."""

import os
import time
from pathlib import Path

import pytest
import trio

from lfsfs.fuse.polling import MOST_NS, REST_NS, SHORT_WAITS, Polling

from .scratch import Scratch, mounted

NOW = 5_000_000_000


def hurried(cores: int = 2) -> Polling:
    """One whose last waits were short."""
    polling = Polling(cores)
    for _ in range(SHORT_WAITS):
        polling.slept(MOST_NS // 2)
    return polling


def test_it_begins_after_some_short_waits_in_a_row() -> None:
    polling = Polling(2)
    for wait in [MOST_NS // 2] * (SHORT_WAITS - 1) + [MOST_NS * 2] + [MOST_NS // 2] * (SHORT_WAITS - 1):
        polling.slept(wait)
        assert not polling.pays(NOW)
    polling.slept(MOST_NS // 2)
    assert polling.pays(NOW)


def test_on_a_single_core_it_never_begins() -> None:
    assert not hurried(cores=1).pays(NOW)


def test_it_ends_after_a_moment_and_begins_anew_from_the_first_short_wait() -> None:
    polling, looks = hurried(), range(NOW, NOW + 2 * MOST_NS, MOST_NS // 10)
    lasted = next(now - NOW for now in looks if not polling.goes_on(NOW, max(NOW, now - MOST_NS // 10), now))
    assert lasted == MOST_NS
    polling.slept(MOST_NS // 2)
    assert not polling.pays(NOW)


def test_a_core_that_others_want_is_left_to_them() -> None:
    polling = hurried()
    assert not polling.goes_on(NOW, NOW, NOW + MOST_NS)
    for _ in range(SHORT_WAITS):
        polling.slept(1)
    assert not polling.pays(NOW + REST_NS // 2)
    assert polling.pays(NOW + MOST_NS + REST_NS)


@pytest.mark.mount
@pytest.mark.timeout(60)
async def test_nothing_is_polled_for_once_nobody_asks_any_more(tmp_path: Path) -> None:
    async with mounted(tmp_path / "m", Scratch(files={b"file": bytearray(b"1")})) as at:

        def ask() -> None:
            for _ in range(300):
                os.stat(at.path / "file")

        await trio.to_thread.run_sync(ask, abandon_on_cancel=True)
        await trio.sleep(0.01)
        begun = time.thread_time()  # of the thread that serves, which is this one
        await trio.sleep(0.5)
        assert time.thread_time() - begun < 0.05
