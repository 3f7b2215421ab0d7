"""The group ingest of scripts/bench: large files into incoming/ and tmp/, beside SHA-256 alone and the disk alone.

Into incoming/ a file is committed when it is closed; into tmp/, as git-lfs does it, when it is renamed to its oid.

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


def oid_of(source: Path) -> str:
    return run("openssl", "dgst", "-sha256", "-r", source).split()[0]


def placed(target: Path, oid: str) -> None:
    """The rename by which git-lfs commits."""
    target.rename(target.parents[1] / "objects" / oid[:2] / oid[2:4] / oid)


def blocks(ground: Ground) -> list[Row]:
    """From the first open(2) to the end of the commit."""
    size = ground.bytes(GIB)

    def ours(block: int, number: int) -> float:
        source = ground.noise(size)
        with ground.mounted("--durability", "fast") as (_, mountpoint):
            target = mountpoint / "incoming" / "file"
            return size / MIB / timed(lambda: run("dd", f"if={source}", f"of={target}", f"bs={block}"))

    def as_git_lfs(block: int, number: int) -> float:
        source = ground.noise(size)
        oid = oid_of(source)

        def write(target: Path) -> None:
            run("dd", f"if={source}", f"of={target}", f"bs={block}")
            placed(target, oid)

        with ground.mounted("--durability", "fast") as (_, mountpoint):
            return size / MIB / timed(lambda: write(mountpoint / "tmp" / "file"))

    def theirs(number: int) -> float:
        return size / MIB / timed(partial(hashed, ground.noise(size)))

    return [
        *(Row(f"writes of {block // KIB:,} KiB into tmp/, and a rename, fast", "MiB/s", partial(as_git_lfs, block),
              theirs, "openssl dgst -sha256", (">=", bar),
              point=Point("throughput by write size, into tmp/", block / KIB)) for block, bar in BLOCKS),
        *(Row(f"writes of {block // KIB:,} KiB into incoming/, fast", "MiB/s", partial(ours, block), theirs,
              "openssl dgst -sha256", (">=", bar), point=Point("throughput by write size", block / KIB))
          for block, bar in BLOCKS),
    ]  # fmt: skip


def two_writers(ground: Ground) -> list[Row]:
    size = ground.bytes(GIB // 2)

    def as_git_lfs(count: int, number: int) -> float:
        sources = [ground.noise(size + at * MIB) for at in range(count)]
        oids = [oid_of(source) for source in sources]
        with ground.mounted("--durability", "fast") as (_, mountpoint):
            commands: list[list[str | Path]] = [
                [
                    "sh", "-c", 'cp "$1" "$2" && mv "$2" "$3"', "sh", source, mountpoint / "tmp" / source.name,
                    mountpoint / "objects" / oid[:2] / oid[2:4] / oid,
                ]
                for source, oid in zip(sources, oids, strict=True)
            ]  # fmt: skip
            return sum(source.stat().st_size for source in sources) / MIB / timed(lambda: together(*commands))

    def writers(count: int, number: int) -> float:
        sources = [ground.noise(size + at * MIB) for at in range(count)]
        with ground.mounted("--durability", "fast") as (_, mountpoint):
            commands: list[list[str | Path]] = [
                ["cp", source, mountpoint / "incoming" / source.name] for source in sources
            ]
            return sum(source.stat().st_size for source in sources) / MIB / timed(lambda: together(*commands))

    def hashers(count: int, number: int) -> float:
        sources = [ground.noise(size + at * MIB) for at in range(count)]
        commands: list[list[str | Path]] = [["openssl", "dgst", "-sha256", source] for source in sources]
        return sum(source.stat().st_size for source in sources) / MIB / timed(lambda: together(*commands))

    return [
        Row("openssl dgst -sha256, two at once, in all", "MiB/s", partial(hashers, 2), partial(hashers, 1), "one"),
        *(Row(f"two writers at once into {place}, fast, in all", "MiB/s", partial(write, 2), partial(write, 1),
              "one writer", (">=", 1.5))
          for place, write in (("tmp/", as_git_lfs), ("incoming/", writers))),
    ]  # fmt: skip


@contextmanager
def group(folder: Path, scale: float) -> Iterator[tuple[list[Row], list[str]]]:
    ground = Ground(folder, scale)
    yield [*copies(ground), *blocks(ground), *two_writers(ground)], notes()


def notes() -> list[str]:
    return [f"{run('openssl', 'version').strip()}; the source in the page cache, each copy into a new store."]
