"""The power goes at any moment of a write, a gc, a vacuum, a rewriting of packs: what was promised is there, and whole.

The calls of a real process are recorded, and a disk made of every beginning of them on which nothing is that was not
synced, or names without their bytes, or some of it by chance. A kill keeps the page cache; this does not.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from recording import Reliability

from lfsfs.errors import LfsfsError
from lfsfs.store import write_ahead

from .disk import Change, Disk, all_of_it, by_chance, names_without_bytes, nothing_unsynced, write
from .recorded import record
from .scenarios import SCENARIOS, check

MOMENTS = 9
"""Of a scenario, in the test command; scripts/torture power takes all."""
SEEDS = 3


@pytest.fixture(autouse=True)
def started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that opens the store is not the one, still running, that wrote it."""
    boot = tmp_path / "boot_id"
    boot.write_text("another one")
    monkeypatch.setattr(write_ahead, "_BOOT_ID", boot)


def recorded(tmp_path: Path, scenario: str) -> Disk:
    """What the scenario did to STORE, which is not there any more."""
    store = tmp_path / "store"
    store.mkdir()
    disk = Disk(store, record(tmp_path, Path(__file__).with_name("scenarios.py"), scenario, store))
    shutil.rmtree(store)
    return disk


def cut(disk: Disk, scenario: str, moment: int, how: str, keeps: Callable[[Change], float]) -> None:
    """Opens and checks what is left when the power goes after so many calls."""
    store = Path(disk.root)
    write(disk.left(moment, keeps), store)
    try:
        trio.run(check, scenario, store, disk.acknowledged(moment))
    except BaseException as failure:
        failure.add_note(f"power lost after call {moment} of {disk.length}, {how}")
        raise
    finally:
        shutil.rmtree(store)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.promise("2.4")
@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name != "fast"])
def test_whenever_the_power_goes_what_was_promised_is_on_the_disk(
    tmp_path: Path, scenario: str, full_size: bool, reliability: Reliability
) -> None:
    disk = recorded(tmp_path, scenario)
    moments = disk.moments("begun")
    assert len(moments) > MOMENTS
    chosen = moments if full_size else moments[:: -(-len(moments) // MOMENTS)]
    tried = 0
    for moment in chosen:
        for how, keeps in forgetful(moment, SEEDS if full_size else 1).items():
            cut(disk, scenario, moment, how, keeps)
            tried += 1
    reliability(
        f"The power goes during `{scenario}`",
        f"{tried} cuts at {len(chosen)} of {len(moments)} moments",
        "what was promised is there, whole",
    )


@pytest.mark.slow
def test_a_store_that_does_not_sync_loses_what_it_said_it_had(tmp_path: Path) -> None:
    """Or nothing above would mean anything."""
    disk = recorded(tmp_path, "fast")
    last = next(ended for ended, text in disk.said if text.startswith("put "))
    with pytest.raises((AssertionError, LfsfsError)):
        cut(disk, "fast", last, "nothing unsynced is there", nothing_unsynced)


def forgetful(moment: int, seeds: int) -> dict[str, Callable[[Change], float]]:
    return {
        "nothing unsynced is there": nothing_unsynced,
        "names without bytes": names_without_bytes,
        "all of it is there": all_of_it,
        **{f"by chance {seed}": by_chance(moment * 1000 + seed) for seed in range(seeds)},
    }
