"""One bit flips in one file of a store, any bit of any file: it is found, or put right, or harms nobody.

What is served is what was stored: `small.use` compares every byte that it gets. Nothing crashes, and nothing hangs.
"""

import json
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import forking
import pytest
import trio
from recording import Reliability

from . import small

BITS = 35
"""Of all files of each of two stores, in the test command. `scripts/torture flips MINUTES` takes any, in any order."""
MINUTES = 60
SECONDS = 60
FREE_TEXT = ("lfsfs.toml", "lfsfs.json")
"""Written by people, or said by us to people: a bit of theirs may make another text that is as good."""


class Flipped:
    """A store, and the same with one bit of it another one."""

    def __init__(self, folder: Path, *, encrypted: bool = False) -> None:
        self.made, self.path = folder / "made", folder / "store"
        trio.run(partial(small.made, self.made, encrypted=encrypted))
        self.restore()
        found = self.use()
        assert found["faults"] == []
        self.expected = found["seen"]
        self.files = sorted(file for file in self.made.rglob("*") if file.is_file() and file.stat().st_size)

    def restore(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self.made, self.path)

    def use(self) -> dict[str, Any]:
        """What a process sees and finds wrong. That it ends well is all that is asked of it here."""
        status, out, err = forking.run("flipping.small:use", self.path, seconds=SECONDS)
        assert status == 0, err
        found: dict[str, Any] = json.loads(out)
        return found

    def outcome(self, file: Path, bit: int) -> str:
        """`found`, `harmless`, or, of a text that people write, `another text`."""
        place = self.path / file.relative_to(self.made)
        self.restore()
        mode = place.stat().st_mode
        place.chmod(0o600)
        content = bytearray(place.read_bytes())
        content[bit // 8] ^= 1 << bit % 8
        place.write_bytes(content)
        place.chmod(mode)
        found = self.use()
        if found["faults"]:
            return "found"
        if found["seen"] == self.expected:
            return "harmless"
        assert file.name in FREE_TEXT, f"{found['seen']} instead of {self.expected}"
        return "another text"

    def renamed(self, file: Path, bit: int) -> str:
        """As `outcome`, of a bit of the file's name."""
        self.restore()
        name = bytearray(file.name.encode())
        name[bit // 8] ^= 1 << bit % 8
        if b"/" in name or b"\\0" in name:
            return "harmless"
        place = self.path / file.relative_to(self.made)
        target = place.parent / name.decode("utf-8", "surrogateescape")
        place.rename(target)
        found = self.use()
        if found["faults"]:
            return "found"
        assert found["seen"] == self.expected or file.name in (*FREE_TEXT, "users.toml")
        return "harmless"


def sample(flipped: Flipped, count: int) -> list[tuple[Path, int]]:
    """As many bits of each file, evenly spread, at places that are drawn once and for all."""
    chance = random.Random(2026)
    found = []
    each = max(1, count // len(flipped.files))
    for file in flipped.files:
        bits = file.stat().st_size * 8
        found += [(file, (at * bits + chance.randrange(bits)) // each) for at in range(each)]
    return found


def shuffled(flipped: Flipped, minutes: float) -> Iterator[tuple[Path, int]]:
    """Any bits of all files, each file in its turn, until the time is over."""
    chance = random.Random()
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        for file in flipped.files:
            yield file, chance.randrange(file.stat().st_size * 8)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("form", ["plain", "encrypted"])
def test_a_bit_that_flips_in_any_file_is_found_or_harmless_and_never_served(
    tmp_path: Path, full_size: bool, reliability: Reliability, form: str
) -> None:
    flipped = Flipped(tmp_path, encrypted=form == "encrypted")
    outcomes: dict[str, Counter[str]] = {}
    minutes = float(os.environ.get("LFSFS_MINUTES", MINUTES)) / 2
    chosen = shuffled(flipped, minutes) if full_size else iter(sample(flipped, BITS))
    for file, bit in chosen:
        kind = kind_of(file.relative_to(flipped.made))
        try:
            outcomes.setdefault(kind, Counter())[flipped.outcome(file, bit)] += 1
        except BaseException as failure:
            failure.add_note(f"bit {bit} of {file.relative_to(flipped.made)}")
            raise
    assert outcomes["objects"]["found"] == outcomes["objects"].total()
    assert outcomes["trash"]["found"] == outcomes["trash"].total()
    assert outcomes["index/data.mdb"]["harmless"] == outcomes["index/data.mdb"].total(), "put right"
    for kind, counted in outcomes.items():
        said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counted.items()))
        what = f"One bit flips: {kind}" + (" (encrypted)" if form == "encrypted" else "")
        reliability(what, f"{counted.total()} bits, each alone", said)


def kind_of(file: Path) -> str:
    return file.parts[0] if file.parts[0] in ("objects", "trash") else str(file)


@pytest.mark.slow
def test_a_bit_that_flips_in_a_name_is_found_or_harmless(tmp_path: Path, full_size: bool) -> None:
    flipped = Flipped(tmp_path)
    chance = random.Random(7)
    named = [file for file in flipped.made.rglob("*") if file.is_file()]
    for file in named:
        bits = range(len(file.name) * 8)
        for bit in bits if full_size else [chance.choice(bits)]:
            flipped.renamed(file, bit)
