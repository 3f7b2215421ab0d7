"""What is behind the page: plots, walks through the index, lists of locks, and the wheel that has it all."""

import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import trio

from lfsfs import open_store
from lfsfs.errors import Unavailable
from lfsfs.server.page import derived
from lfsfs.server.page.derived import Derived
from lfsfs.server.page.locked import Locked
from lfsfs.server.page.plot import HEIGHT, LEAST_BARS, MOST_BARS, WIDTH, draw
from lfsfs.store.growth import HOUR_NS, Series
from lfsfs.store.locks import LocalLocks, LockPage
from lfsfs.store.references import Repository

REPOSITORY = Path(__file__).parents[2]


def test_a_plot_has_few_enough_bars_and_ends_at_the_total() -> None:
    now = 1_900_000_000
    for hours in (0, 1, 50, 1_000, 30_000, 400_000):
        series = Series()
        for back, size in ((hours, 700), (hours // 2, 1), (0, 3 << 20)):
            series.add((now // 3600 - back) * HOUR_NS, size)
        found = draw(series, now)
        assert found is not None
        assert LEAST_BARS <= len(found.bars) <= MOST_BARS + 1
        assert sum(bar.bytes for bar in found.bars) == found.bars[-1].total == 701 + (3 << 20)
        assert sum(bar.objects for bar in found.bars) == 3
        assert 3 <= len(found.lines) <= 6 and found.lines[-1] == (HEIGHT, "0 B") and found.lines[0][0] == 0
        assert abs(found.bars[-1].x + found.bars[-1].width - WIDTH) < 0.01
    assert draw(Series(), now) is None


async def test_a_long_walk_keeps_no_request_waiting_and_is_not_begun_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks = 0

    def walk() -> Generator[None, None, int]:
        nonlocal walks
        walks += 1
        for _ in range(10):
            time.sleep(0.03)
            yield
        return walks

    monkeypatch.setattr(derived, "SHARE", 1)
    async with open_store(tmp_path / "store", create=True) as store, trio.open_nursery() as nursery:
        value = Derived(store.index, walk, trio.CapacityLimiter(1))
        assert await value.current(nursery, patience=0.01) is None
        assert await value.current(nursery, patience=0.01) is None
        assert await value.current(nursery, patience=30) == 1
        assert await value.current(nursery, patience=30) == 1, "nothing has changed"
        await store.put(b"something")
        assert await value.current(nursery, patience=0.01) == 1, "it rests: the last one is shown"
        await trio.sleep(1)
        assert await value.current(nursery, patience=30) == 2
        assert walks == 2


@pytest.mark.slow
def test_templates_and_style_are_in_the_wheel(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "lfsfs"):
        subprocess.run(["cp", "-r", REPOSITORY / name, source / name], check=True)
    made = [
        sys.executable,
        "-c",
        "import setuptools; setuptools.setup()",
        "-q",
        "build",
        "--build-lib",
        tmp_path / "built",
    ]
    subprocess.run(made, cwd=source, check=True, capture_output=True, timeout=120)
    page = REPOSITORY / "lfsfs" / "server" / "page"
    wanted = {
        str(file.relative_to(REPOSITORY))
        for part in ("templates", "assets")
        for file in (page / part).iterdir()
    }
    assert wanted and not {name for name in wanted if not (tmp_path / "built" / name).is_file()}


class Dear:
    """Locks that lie far away, some of them out of reach."""

    def __init__(self, near: LocalLocks) -> None:
        self.create, self.get, self.delete = near.create, near.get, near.delete
        self.near, self.asked = near, 0

    async def list(self, repository: str, *more: Any) -> LockPage:
        if repository == "/away":
            raise Unavailable("the bucket is away")
        self.asked += 1
        await trio.sleep(0.2)
        return await self.near.list(repository, *more)


async def test_a_list_of_locks_that_was_dear_is_shown_again_and_one_that_fails_is_told(
    tmp_path: Path,
) -> None:
    """Locks in a bucket cost requests. The lists of the store itself are never old."""

    def repositories(*names: str) -> list[Repository]:
        return [Repository(number, name, 0) for number, name in enumerate(names)]

    async with open_store(tmp_path / "store", create=True) as store:
        near = LocalLocks(store.index)
        dear = Dear(near)
        shown, at_once = Locked(dear), Locked(near)
        for path in ("x", "y"):
            await near.create("/a", path, "ann")
            assert [held.lock.path for held in (await shown.of(repositories("/a"))).locks] == ["x"]
            assert len((await at_once.of(repositories("/a"))).locks) == 1 + (path == "y")
        assert dear.asked == 1
        some = await shown.of(repositories("/a", "/away"))
        assert (len(some.locks), some.complete, some.problem) == (1, False, "the bucket is away")
