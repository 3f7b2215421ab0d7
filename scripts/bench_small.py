"""The group small of scripts/bench: many files of 4 KiB by `cp -r` into incoming/, beside other mounts on the same disk.

None of the others makes a file durable before close(2) returns: lfsfs with `--durability sync` stands beside them all
the same, and has to be as quick as the quickest. Each copy goes into a mount that is empty.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench import Point, Row
from bench_ground import KIB, Ground, run, timed
from bench_peers import PEERS, Peer, missing

FILES = 10_000
FEWER = (100, 1_000)
BARS = {"fast": 2.0, "sync": 1.0}
PLOT = "files of 4 KiB a second by count"


class Copies:
    """The same files for every side of a count."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._sources: dict[int, Path] = {}

    def _source(self, count: int) -> Path:
        if count not in self._sources:
            self._sources[count] = self._ground.small_files(count, 4 * KIB)
        return self._sources[count]

    def ours(self, durability: str, count: int, number: int) -> float:
        with self._ground.mounted("--durability", durability) as (_, mountpoint):
            return self._into(count, mountpoint / "incoming")

    def peer(self, peer: Peer, count: int, number: int) -> float:
        with peer.mounted(self._ground) as mountpoint:
            return self._into(count, mountpoint)

    def native(self, count: int, number: int) -> float:
        folder = self._ground.fresh("native")
        folder.mkdir()
        return self._into(count, folder)

    def _into(self, count: int, folder: Path) -> float:
        """Files a second."""
        source, target = self._source(count), folder / "copied"
        seconds = timed(lambda: run("cp", "-r", source, target))
        if len(os.listdir(target)) != count:
            raise SystemExit(f"{target} does not have {count} files")
        return count / seconds


def rows_of(copies: Copies, count: int, bars: dict[str, float]) -> list[Row]:
    return [
        Row(f"{count:,} files of 4 KiB, {durability}", "files/s", partial(copies.ours, durability, count),
            partial(copies.peer, peer, count), peer.name, (">=", bars[durability]) if bars else None,
            point=Point(PLOT, count, f"lfsfs, {durability}"))
        for durability in BARS
        for peer in PEERS
        if peer.installed
    ]  # fmt: skip


@contextmanager
def group(folder: Path, scale: float) -> Iterator[tuple[list[Row], list[str]]]:
    ground = Ground(folder, scale)
    copies, most = Copies(ground), ground.count(FILES)
    rows = [row for count in FEWER if count < most for row in rows_of(copies, count, {})]
    rows += rows_of(copies, most, BARS)
    rows.append(
        Row(f"{most:,} files of 4 KiB, fast", "files/s", partial(copies.ours, "fast", most),
            partial(copies.native, most), "the disk itself, no sync"),
    )  # fmt: skip
    yield rows, missing({peer.name: peer.get for peer in PEERS if not peer.installed})
