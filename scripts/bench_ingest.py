"""The group ingest of scripts/bench: large files into incoming/, beside SHA-256 alone and the disk alone.

Every object's name is the SHA-256 of its bytes: no write can be quicker than the hash. `openssl dgst -sha256` of the
same file, in the page cache, is the limit; with the durability sync a copy that is on the disk as well, whichever is
slower.
Each copy goes into a new store; the file is in the page cache; a change of its first bytes makes it a new object.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench import Point, Row
from bench_ground import GIB, KIB, MIB, Ground, run, timed, together

BLOCKS = ((4 * KIB, 0.75), (32 * KIB, 0.85), (128 * KIB, 0.9), (MIB, 0.95))
"""What is written at once, and what part of openssl's rate has to be reached."""


def hashed(source: Path) -> None:
    run("openssl", "dgst", "-sha256", source)


def copied(source: Path, target: Path) -> None:
    """cp, and the copy is on the disk."""
    run("cp", source, target)
    descriptor = os.open(target, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def copies(ground: Ground) -> list[Row]:
    size = ground.bytes(GIB)

    def ours(durability: str, number: int) -> float:
        source = ground.noise(size)
        with ground.mounted("--durability", durability) as (_, mountpoint):
            return timed(lambda: run("cp", source, mountpoint / "incoming" / "file"))

    def openssl(number: int) -> float:
        return timed(partial(hashed, ground.noise(size)))

    def slower(number: int) -> float:
        source, target = ground.noise(size), ground.fresh("copy")
        seconds = timed(lambda: copied(source, target))
        target.unlink()
        return max(seconds, openssl(number))

    name = f"cp of {size // MIB:,} MiB into incoming/"
    return [
        Row(f"{name}, sync", "s", partial(ours, "sync"), slower, "the slower of openssl dgst and cp + fsync",
            ("<=", 1.10)),
        Row(f"{name}, fast", "s", partial(ours, "fast"), openssl, "openssl dgst -sha256", ("<=", 1.05)),
    ]  # fmt: skip


def blocks(ground: Ground) -> list[Row]:
    """From the first open(2) to the end of dd: the commit is part of it."""
    size = ground.bytes(GIB)

    def ours(block: int, number: int) -> float:
        source = ground.noise(size)
        with ground.mounted("--durability", "fast") as (_, mountpoint):
            target = mountpoint / "incoming" / "file"
            return size / MIB / timed(lambda: run("dd", f"if={source}", f"of={target}", f"bs={block}"))

    def theirs(number: int) -> float:
        return size / MIB / timed(partial(hashed, ground.noise(size)))

    return [
        Row(f"writes of {block // KIB:,} KiB, fast", "MiB/s", partial(ours, block), theirs, "openssl dgst -sha256",
            (">=", bar), point=Point("throughput by write size", block / KIB))
        for block, bar in BLOCKS
    ]  # fmt: skip


def two_writers(ground: Ground) -> Row:
    size = ground.bytes(GIB // 2)

    def writers(count: int, number: int) -> float:
        sources = [ground.noise(size + at * MIB) for at in range(count)]
        with ground.mounted("--durability", "fast") as (_, mountpoint):
            commands: list[list[str | Path]] = [
                ["cp", source, mountpoint / "incoming" / source.name] for source in sources
            ]
            return sum(source.stat().st_size for source in sources) / MIB / timed(lambda: together(*commands))

    return Row(
        "two writers at once, fast, in all", "MiB/s", partial(writers, 2), partial(writers, 1), "one writer",
        (">=", 1.5),
    )  # fmt: skip


@contextmanager
def group(folder: Path, scale: float) -> Iterator[tuple[list[Row], list[str]]]:
    ground = Ground(folder, scale)
    yield [*copies(ground), *blocks(ground), two_writers(ground)], notes()


def notes() -> list[str]:
    return [f"{run('openssl', 'version').strip()}; the source in the page cache, each copy into a new store."]
