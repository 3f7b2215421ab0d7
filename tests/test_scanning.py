"""The scanner at the gate: what it finds infected is no object, by whichever way it comes; what it says is kept."""

import errno
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
from clamav import FINDING, LARGEST, MARK, Clamav
from gitlfs.mounted import LFSFS, Mount, lfsfs, within
from server.served import Served, refused
from test_promises import commit, drop, listed, oid_of, path_in

from lfsfs import Oid, open_store
from lfsfs.config_policy import Policy, ScanOptions
from lfsfs.errors import Infected, Unavailable
from lfsfs.scan import Clamd, Command, Subject
from lfsfs.store import verdicts
from lfsfs.store.rescreening import Rescreening

KIB, MIB = 1 << 10, 1 << 20
INFECTED = b"harmless so far " + MARK + b" and harmless again"
LARGE = os.urandom(2 * MIB) + MARK + os.urandom(MIB)
WAIT_SECONDS = 20

pytestmark = [pytest.mark.mount, pytest.mark.timeout(120)]


def configuration(folder: Path, scan: str) -> Path:
    file = folder / "scan.toml"
    file.write_text(f"[scan]\n{scan}\n")
    return file


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory, clamav: Clamav) -> Iterator[Mount]:
    folder = tmp_path_factory.mktemp("scanning")
    config = configuration(folder, f'clamd = "{clamav.address}"')
    with Mount(folder / "own", "--config", str(config)) as mount:
        (mount.path / "repos" / "r").mkdir()
        yield mount
        assert listed(mount.path / "objects").isdisjoint({oid_of(INFECTED), oid_of(LARGE)})


@pytest.fixture
def put_up(tmp_path: Path) -> Iterator[Mount]:
    """A mount that the test starts itself."""
    mount = Mount(tmp_path / "own")
    yield mount
    mount.stop()


def denied(failed: pytest.ExceptionInfo[OSError]) -> None:
    assert failed.value.errno == errno.EACCES, failed.value


# Through the mount.


@pytest.mark.promise("15.1")
@pytest.mark.parametrize("content", [INFECTED, LARGE], ids=["small", "large"])
def test_close_of_what_is_infected_is_eacces_and_the_file_stays_what_it_was(
    mount: Mount, content: bytes
) -> None:
    with pytest.raises(PermissionError) as failed:
        drop(mount, "new", content)
    denied(failed)
    assert within(WAIT_SECONDS, lambda: not (mount.path / "incoming" / "new").exists())
    assert drop(mount, "new", b"clean now") in listed(mount.path / "objects")
    (mount.path / "incoming" / "new").unlink()
    clean = drop(mount, "there", b"clean")
    with pytest.raises(PermissionError) as failed:
        drop(mount, "there", content)
    denied(failed)
    there = mount.path / "incoming" / "there"
    assert within(WAIT_SECONDS, lambda: (there.read_bytes(), there.stat().st_size) == (b"clean", 5))
    assert clean in listed(mount.path / "objects")
    assert FINDING in mount.log()


@pytest.mark.promise("15.1")
@pytest.mark.parametrize("root", [".", "repos/r"])
@pytest.mark.parametrize("content", [INFECTED, LARGE], ids=["small", "large"])
def test_a_rename_or_link_of_what_is_infected_into_objects_is_eacces(
    mount: Mount, root: str, content: bytes
) -> None:
    with pytest.raises(PermissionError) as failed:
        commit(mount.path / root, content)
    denied(failed)
    (temp,) = (mount.path / root / "tmp").iterdir()
    target = path_in(mount.path / root / "objects", oid_of(content))
    with pytest.raises(PermissionError) as failed:
        os.link(temp, target)
    denied(failed)
    temp.unlink()
    assert not target.exists()
    assert commit(mount.path / root, content.replace(MARK, b"")) in listed(mount.path / root / "objects")


@pytest.mark.promise("15.1")
def test_nor_does_another_process_bring_it_in(mount: Mount, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(INFECTED)
    assert FINDING in refused("put", "--store", mount.store, file)


# Through the server.


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, clamav: Clamav) -> Iterator[Served]:
    config = f'[scan]\nclamd = "{clamav.address}"\n'
    with Served(tmp_path_factory.mktemp("served"), config=config) as server:
        yield server


@pytest.mark.promise("15.2")
@pytest.mark.parametrize("content", [INFECTED, LARGE], ids=["small", "large"])
def test_the_server_answers_422_with_what_was_found(served: Served, content: bytes) -> None:
    api, oid = served.api("scan/put"), oid_of(content)
    for _ in range(2):
        put = api.request("PUT", f"objects/{oid}", data=content)
        assert (put.status_code, FINDING in put.json()["message"]) == (422, True)
    assert api.batch("download", (oid, len(content))).json()["objects"][0]["error"]["code"] == 404
    tus = {"Tus-Resumable": "1.0.0"}
    begun = api.request("POST", f"uploads/{oid}", headers=tus | {"Upload-Length": str(len(content))})
    assert (begun.status_code, FINDING in begun.json()["message"]) == (422, True), "it is known by now"
    by_tus = content + b"and more"
    oid = oid_of(by_tus)
    begun = api.request("POST", f"uploads/{oid}", headers=tus | {"Upload-Length": str(len(by_tus))})
    assert begun.status_code == 201
    headers = tus | {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    patched = api.request("PATCH", f"uploads/{oid}", headers=headers, data=by_tus)
    assert (patched.status_code, FINDING in patched.json()["message"]) == (422, True)
    for one in (content, by_tus):
        error = api.asked("upload", oid_of(one), len(one))["error"]
        assert (error["code"], FINDING in error["message"]) == (422, True)
    api.put(content.replace(MARK, b""))


# The scanner does not answer.


@pytest.mark.promise("15.3")
def test_while_the_scanner_is_away_nothing_comes_in_and_what_is_there_is_served(
    put_up: Mount, tmp_path: Path
) -> None:
    gone = configuration(tmp_path, f'clamd = "unix:{tmp_path}/nobody"')
    put_up.start()
    before = drop(put_up, "before", b"before")
    put_up.stop()
    put_up.start("--config", str(gone))
    with pytest.raises(TimeoutError):
        drop(put_up, "new", b"new")
    with pytest.raises(TimeoutError):
        commit(put_up.path, b"new")
    assert (put_up.path / "incoming" / "before").read_bytes() == b"before"
    assert listed(put_up.path / "objects") == {before}
    assert "cannot be reached" in put_up.log()
    with Served(tmp_path / "served", "--config", gone) as server:
        put = server.api("away").request("PUT", f"objects/{oid_of(b'new')}", data=b"new")
        assert (put.status_code, put.headers["Retry-After"], "cannot be scanned" in put.text) == (
            503,
            "5",
            True,
        )


@pytest.mark.promise("15.4")
def test_or_where_that_is_wished_it_comes_in_and_is_scanned_later(
    put_up: Mount, clamav: Clamav, tmp_path: Path
) -> None:
    config = configuration(tmp_path, f'clamd = "{clamav.address}"\nunreachable = "accept"')
    clamav.stop()
    try:
        put_up.start("--config", str(config))
        infected, clean = drop(put_up, "infected", INFECTED), drop(put_up, "clean", b"clean")
        assert (put_up.path / "incoming" / "infected").read_bytes() == INFECTED
        assert listed(put_up.path / "objects") == {infected, clean}
    finally:
        clamav.start()
    assert within(WAIT_SECONDS, lambda: listed(put_up.path / "objects") == {clean})
    assert scanner_says(put_up)[infected] == ("infected", FINDING)


def scanner_says(mount: Mount) -> dict[str, tuple[str, str]]:
    said = json.loads(lfsfs("scan", "--list", "--json", "--store", mount.store))
    return {one["oid"]: (one["state"], one["finding"]) for one in said}


# After the commit.


@pytest.mark.promise("15.5")
def test_after_the_commit_what_is_infected_goes_to_the_trash_and_does_not_come_back(
    put_up: Mount, clamav: Clamav, tmp_path: Path
) -> None:
    put_up.start("--config", str(configuration(tmp_path, f'clamd = "{clamav.address}"\nwhen = "after"')))
    infected, clean = drop(put_up, "infected", INFECTED), drop(put_up, "clean", b"clean")
    assert within(WAIT_SECONDS, lambda: listed(put_up.path / "objects") == {clean})
    with pytest.raises(OSError):
        (put_up.path / "incoming" / "infected").read_bytes()
    (trashed,) = json.loads(lfsfs("trash", "--json", "--store", put_up.store))
    assert (trashed["oid"], trashed["by"]) == (infected, "infected")
    with pytest.raises(PermissionError):
        commit(put_up.path, INFECTED)
    assert FINDING in refused("undelete", infected, "--store", put_up.store)
    lfsfs("scan", "--accept", infected, "--store", put_up.store)
    lfsfs("undelete", infected, "--store", put_up.store)
    assert listed(put_up.path / "objects") == {clean, infected}
    assert (put_up.path / "incoming" / "infected").read_bytes() == INFECTED
    assert commit(put_up.path, INFECTED) == infected
    assert scanner_says(put_up) == {infected: ("accepted", "")}
    assert "0 infected" in said_by_scan(put_up), "what was accepted is not scanned again"
    assert FINDING in said_by_scan(put_up, infected), "unless somebody asks for it"
    assert within(WAIT_SECONDS, lambda: listed(put_up.path / "objects") == {clean})


def said_by_scan(mount: Mount, *oids: str) -> str:
    """All that the command says; its exit status says whether anything is infected."""
    done = subprocess.run(
        [LFSFS, "scan", *oids, "--store", mount.store],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == (1 if FINDING in done.stdout else 0), done
    return done.stdout + done.stderr


@pytest.mark.promise("15.6")
async def test_what_came_before_there_was_a_scanner_is_found_by_scan(tmp_path: Path, clamav: Clamav) -> None:
    async with open_store(tmp_path / "store", create=True) as store:
        infected, clean = await store.put(LARGE), await store.put(b"clean")
        refers = await store.add_repository("r")
        await store.put(INFECTED, repository=refers.name)
    policy = Policy(scan=ScanOptions(clamav.address))
    async with open_store(tmp_path / "store", policy=policy) as store:
        assert store.screening is not None
        screening = Rescreening(store, store.screening)
        found = {oid: await screening.scan(oid) for oid in await screening.unknown()}
        assert found == {infected.oid: FINDING, clean.oid: None, oid_of(INFECTED): FINDING}
        assert [row.oid for row in (await store.list(_everything())).objects] == [clean.oid]
        assert await screening.unknown() == []


def _everything():  # type: ignore[no-untyped-def]
    from lfsfs.store.query import ListQuery

    return ListQuery()


# Verdicts.


class Program:
    """A scanner of the test's own: a shell script that writes a line for each object that it is given."""

    def __init__(self, folder: Path, script: str) -> None:
        self.calls = folder / "calls"
        self.path = folder / "scanner"
        self.path.write_text(f'#!/bin/sh\necho "$LFSFS_OID $LFSFS_SIZE $*" >>{self.calls}\n{script}\n')
        self.path.chmod(self.path.stat().st_mode | stat.S_IXUSR)

    def policy(self, *arguments: str, **options: object) -> Policy:
        return Policy(scan=ScanOptions(None, (str(self.path), *arguments), **options))  # type: ignore[arg-type]

    @property
    def called(self) -> int:
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0


@pytest.mark.promise("15.7")
async def test_a_verdict_is_kept_by_oid_and_asked_for_again_when_it_is_old(tmp_path: Path) -> None:
    program = Program(tmp_path, "if grep -q bad; then echo 'a bad thing'; exit 1; fi")
    store_path = tmp_path / "store"
    async with open_store(store_path, create=True, policy=program.policy()) as store:
        await store.put(b"good")
        with pytest.raises(Infected, match="a bad thing"):
            await store.put(b"bad")
    async with open_store(store_path, policy=program.policy()) as store:
        await store.put(b"good")
        with pytest.raises(Infected, match="a bad thing"):
            await store.put(b"bad")
    assert program.called == 2
    async with open_store(store_path, policy=program.policy(verdict_age=0.01)) as store:
        await trio.sleep(0.02)
        await store.put(b"good")
        with pytest.raises(Infected):
            await store.put(b"bad")
    assert program.called == 4


async def test_verdicts_that_are_old_go_and_what_was_accepted_stays(tmp_path: Path) -> None:
    policy = Program(tmp_path, "exit 0").policy(verdict_age=0.01)
    async with open_store(tmp_path / "store", create=True, policy=policy) as store:
        assert store.screening is not None
        oids = [(await store.put(b"%d" % number)).oid for number in range(3)]
        await store.index.update(lambda tx: verdicts.put(tx, oids[1], "accepted"))
        await trio.sleep(0.02)
        await Rescreening(store, store.screening).forget_old()
        assert [one.oid for one in store.index.view(lambda tx: list(verdicts.every(tx)))] == [oids[1]]


async def test_a_verdict_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    program = Program(tmp_path, "exit 0")
    async with open_store(tmp_path / "store", create=True, policy=program.policy()) as store:
        oid = (await store.put(b"good")).oid
        for damaged in (b"", b"\7" + bytes(8), b"\1" + bytes(8) + b"\xff"):
            before = program.called
            await store.index.update(lambda tx, value=damaged: tx.put("verdicts", oid.to_bytes(), value))  # type: ignore[misc]
            await store.put(b"good")
            assert program.called == before + 1


@pytest.mark.promise("15.7")
@pytest.mark.parametrize("size", [10, 3 * MIB], ids=["small", "large"])
@pytest.mark.parametrize("by", ["path", "input"])
async def test_a_program_is_given_all_bytes_by_its_input_or_by_path(
    tmp_path: Path, size: int, by: str
) -> None:
    sums = tmp_path / "sums"
    program = Program(tmp_path, f'sha256sum "$@" | cut -c1-64 >>{sums}')
    async with open_store(
        tmp_path / "store", create=True, policy=program.policy(*(["{path}"] if by == "path" else []))
    ) as store:
        put = await store.put(os.urandom(size))
    assert sums.read_text().split() == [put.oid]
    assert program.calls.read_text().startswith(f"{put.oid} {size} ")


@pytest.mark.promise("15.3")
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo broken; exit 2", "exit status 2.: broken"),
        ("kill -9 $$", "exit status -9"),
        ("exec sleep 60", "in 0 s"),
    ],
)
async def test_a_program_that_fails_or_does_not_end_has_said_nothing(
    tmp_path: Path, script: str, said: str
) -> None:
    program = Program(tmp_path, script)
    async with open_store(tmp_path / "store", create=True, policy=program.policy(timeout=0.3)) as store:
        with pytest.raises(Unavailable, match=said):
            await store.put(b"content")
        assert await store.usage() == await store.usage()
        assert (await store.usage()).objects == 0


async def test_a_program_that_reads_nothing_may_say_what_it_likes(tmp_path: Path) -> None:
    program = Program(tmp_path, "exit 0")
    async with open_store(tmp_path / "store", create=True, policy=program.policy()) as store:
        await store.put(os.urandom(3 * MIB))
        await store.put(b"small")


async def test_what_is_larger_than_is_to_be_scanned_is_not(tmp_path: Path) -> None:
    program = Program(tmp_path, "exit 1")
    async with open_store(tmp_path / "store", create=True, policy=program.policy(size=100)) as store:
        await store.put(bytes(101))
        with pytest.raises(Infected, match="found by"):
            await store.put(bytes(100))


# clamd itself.


async def test_clamd_finds_it_wherever_it_is(clamav: Clamav, tmp_path: Path) -> None:
    file = tmp_path / "file"
    for place in (0, 1, MIB - 5, MIB, 3 * MIB):
        content = bytes(place) + MARK + bytes(100)
        file.write_bytes(content)
        subject = Subject(Oid(oid_of(content)), len(content), file)
        assert await Clamd(clamav.address).scan(subject) == FINDING
    content = MARK[:-1]
    assert (
        await Clamd(clamav.address).scan(Subject(Oid(oid_of(content)), len(content), file, content)) is None
    )


async def test_more_than_clamd_takes_is_not_scanned_and_says_so(clamav: Clamav, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(3 * LARGEST))
    subject = Subject(Oid("0" * 64), 3 * LARGEST, file)
    with pytest.raises(Unavailable, match="does not scan it: INSTREAM size limit exceeded"):
        await Clamd(clamav.address).scan(subject)


async def test_a_clamd_that_hangs_up_or_is_somebody_else_has_said_nothing(tmp_path: Path) -> None:
    async def other(stream: trio.SocketStream) -> None:
        await stream.receive_some(10)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, other, 0))
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(Unavailable, match="does not scan it"):
            await Clamd(f"127.0.0.1:{port}").scan(Subject(Oid("0" * 64), 3, tmp_path, b"abc"))
        nursery.cancel_scope.cancel()
    with pytest.raises(Unavailable, match="cannot be reached"):
        await Clamd(f"127.0.0.1:{port}").scan(Subject(Oid("0" * 64), 3, tmp_path, b"abc"))


async def test_a_program_that_is_not_there_has_said_nothing(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be run: No such file"):
        await Command((str(tmp_path / "none"),)).scan(Subject(Oid("0" * 64), 3, tmp_path, b"abc"))
