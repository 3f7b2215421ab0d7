"""gc, why, trash, undelete and vacuum as commands: what they print, and the exit status that tells it."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from lfsfs import Oid, open_store
from lfsfs.cli.main import main
from lfsfs.git.roots import OWNER_FILE

Run = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    async def make() -> None:
        async with open_store(tmp_path / "store", create=True) as made:
            await made.add_repository("game")
            await made.put(b"kept", repository="game")
            await made.put(b"dead" * 500)

    trio.run(make)
    monkeypatch.setenv("LFSFS_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command; its exit status is to be this. What it printed; with --json, the value."""

    def run(*arguments: str, status: int = 0) -> Any:
        capsys.readouterr()
        try:
            ended = main(arguments)
        except SystemExit as end:
            ended = int(str(end.code))
        out, err = capsys.readouterr()
        assert ended == status, err
        return json.loads(out) if "--json" in arguments and status == 0 else out + err

    return run


KEPT, DEAD = Oid.of(b"kept"), Oid.of(b"dead" * 500)


def test_a_dry_run_says_what_would_go_and_deletes_nothing(store: Path, run: Run) -> None:
    said = run("gc")
    assert "nothing refers to 1 of 2 objects (2.0 KiB)" in said
    assert "the next may go in 13d 23h" in said
    found = run("gc", "--grace", "0", "--json")
    assert (found["dry_run"], found["ripe"], found["deleted"]["objects"]) == (
        True,
        {"objects": 1, "bytes": 2000},
        0,
    )
    assert "would move 1 of them" in run("gc", "--grace", "0")
    assert DEAD in run("ls")


def test_what_went_is_listed_explained_and_brought_back(store: Path, run: Run) -> None:
    assert run("why", KEPT) == "repos/game refers to it\n"
    assert "the next `lfsfs gc` writes that down" in run("why", DEAD)
    run("gc")
    assert "gc may take it from" in run("why", DEAD)
    assert run("why", DEAD, "--json")["kept_by"] == []
    assert "1 went to the trash" in run("gc", "--yes", "--grace", "0")
    assert "in the trash since" in run("why", DEAD)
    run("why", "f" * 64, status=3)
    [row] = run("trash", "--json")
    assert (row["oid"], row["size"], row["by"], row["in"]) == (DEAD, 2000, "gc", "file")
    assert run("trash", "--since", "2999-01-01") == ""
    run("undelete", status=2)
    run("undelete", DEAD, "--all", status=2)
    run("undelete", "--since", "1d", DEAD, status=2)
    run("undelete", KEPT[:8], status=3)
    assert run("undelete", DEAD[:8], "--json") == [{"oid": DEAD}]
    assert run("trash") == ""
    run("rm", DEAD)
    assert run("trash", "--json")[0]["by"] == "rm"
    assert f"brought back {DEAD}" in run("undelete", "--all", "--since", "1h")
    assert DEAD in run("ls")


def test_status_says_what_the_trash_holds_and_what_gives_it_back(store: Path, run: Run) -> None:
    assert "trash" not in run("status").replace(str(store), "")
    run("rm", DEAD)
    assert "1 objects (2.0 KiB): `lfsfs vacuum` gives back" in run("status")
    assert run("status", "--json")["trash"] == {"objects": 1, "bytes": 2000, "remote": 0}
    run("vacuum", "--trash-time", "0")
    assert run("status", "--json")["trash"] == {"objects": 0, "bytes": 0, "remote": 0}


def test_vacuum_says_what_it_freed(store: Path, run: Run) -> None:
    run("rm", DEAD)
    assert "0 B reclaimed: 0 objects" in run("vacuum")
    done = run("vacuum", "--trash-time", "0", "--json")
    assert (done["trashed"], done["waiting"], done["silent"]) == (1, 0, [])
    assert done["bytes"] >= 2000
    run("undelete", DEAD, status=3)
    run("vacuum", "--forget-machine", "x", status=2)


def test_a_budget_stops_a_run_and_nonsense_is_told(store: Path, run: Run) -> None:
    assert "more than the budget: nothing was deleted" in run(
        "gc", "--yes", "--grace", "0", "--budget", "0", status=4
    )
    run("gc", "--yes", "--grace", "0", "--budget", "1KiB", status=4)
    run("gc", "--yes", "--grace", "0", "--budget", "10%", status=4)
    for option in (["--budget", "much"], ["--grace", "soon"]):
        run("gc", *option, status=2)
    assert DEAD in run("ls")
    run("gc", "--yes", "--grace", "0", "--budget", "1")
    assert DEAD not in run("ls")


def test_a_clone_that_is_gone_stops_gc_and_vacuum_until_it_is_forgotten(
    store: Path, run: Run, tmp_path: Path
) -> None:
    clone = tmp_path / "game"
    clone.mkdir()
    file = store / "repos" / "game" / OWNER_FILE
    file.parent.mkdir()
    file.write_text(json.dumps({"host": socket.gethostname(), "directory": str(clone / ".git")}))
    shutil.rmtree(clone)
    assert "registered as game, is not there" in run("gc", "--yes", "--grace", "0", status=4)
    assert "perhaps the clone game" in run("why", DEAD)
    assert DEAD in run("ls")
    assert "removed repos/game" in run("detach", "--forgotten", "game", "--store", str(store))
    run("detach", "--forgotten", "game", "--store", str(store), status=3)
    run("gc", "--yes", "--grace", "0")
    assert run("ls") == ""
