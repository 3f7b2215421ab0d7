"""Limits: what is too much is refused, with an errno and an HTTP status that say why; what is not too much is not."""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
import trio
from gitlfs.mounted import Mount
from server.served import Api, Served, refused
from test_promises import commit, drop, listed, oid_of

from lfsfs import open_store
from lfsfs.errors import NoSpace, TooLarge

KIB, MIB = 1 << 10, 1 << 20
LARGEST = 300 * KIB  # beyond what is kept in memory before it lies on disk
NAMES, PATH, UPLOADS = 6, 60, 3

pytestmark = [pytest.mark.mount, pytest.mark.timeout(120)]


def fails(number: int, what: Callable[[], object]) -> None:
    with pytest.raises(OSError) as failed:
        what()
    assert failed.value.errno == number, failed.value


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    options = (
        "--max-object-size", str(LARGEST), "--max-names", str(NAMES), "--max-path-length", str(PATH),
        "--max-open-uploads", str(UPLOADS),
    )  # fmt: skip
    with Mount(tmp_path_factory.mktemp("limits") / "own", *options) as mount:
        (mount.path / "repos" / "r").mkdir()
        yield mount


@pytest.fixture
def incoming(mount: Mount) -> Iterator[Path]:
    """incoming/, which is empty before and afterwards."""
    yield mount.path / "incoming"
    for above, directories, files in os.walk(mount.path / "incoming", topdown=False):
        for name in files:
            (Path(above) / name).unlink()
        for path in (Path(above) / name for name in directories):
            path.unlink() if path.is_symlink() else path.rmdir()


# The largest object: EFBIG.


@pytest.mark.promise("14.1")
@pytest.mark.parametrize("place", ["incoming", "tmp", "repos/r/tmp", "incomplete"])
def test_a_write_beyond_the_largest_object_is_efbig_and_up_to_it_is_not(mount: Mount, place: str) -> None:
    file = mount.path / place / "large"
    with file.open("wb", buffering=0) as opened:
        assert opened.write(b"x" * LARGEST) == LARGEST
        fails(errno.EFBIG, lambda: opened.write(b"y"))
        fails(errno.EFBIG, lambda: opened.truncate(LARGEST + 1))
        fails(errno.EFBIG, lambda: os.pwrite(opened.fileno(), b"y", 10 * LARGEST))
        if place == "incoming":  # a write of it was refused: it is no object (3.6)
            fails(errno.EFBIG, lambda: os.fsync(opened.fileno()))
            opened.truncate(0)
    file.unlink()


@pytest.mark.promise("14.1")
def test_what_was_larger_before_there_was_a_limit_is_not_committed_and_the_rest_stays(tmp_path: Path) -> None:
    with Mount(tmp_path / "own") as mount:
        before = drop(mount, "before", b"b" * 2 * KIB)
        (mount.path / "tmp" / "large").write_bytes(b"l" * 2 * KIB)
        mount.stop()
        mount.start("--max-object-size", "1KiB")
        target = mount.path / "objects" / oid_of(b"l" * 2 * KIB)[:2] / oid_of(b"l" * 2 * KIB)[2:4]
        fails(errno.EFBIG, lambda: (mount.path / "tmp" / "large").rename(target / oid_of(b"l" * 2 * KIB)))
        assert (mount.path / "incoming" / "before").read_bytes() == b"b" * 2 * KIB
        assert listed(mount.path / "objects") == {before}


# Names in incoming/: ENOSPC; their length: ENAMETOOLONG.


@pytest.mark.promise("14.2")
def test_one_name_too_many_is_enospc_and_a_removed_one_makes_room(mount: Mount, incoming: Path) -> None:
    (incoming / "directory").mkdir()
    (incoming / "link").symlink_to("directory")
    for number in range(NAMES - 2):
        drop(mount, f"{number}", b"%d" % number)
    makers: list[Callable[[], object]] = [
        lambda: (incoming / "one-more").write_bytes(b""),
        lambda: (incoming / "one-more").mkdir(),
        lambda: (incoming / "one-more").symlink_to("0"),
        lambda: os.link(incoming / "0", incoming / "one-more"),
    ]
    for make in makers:
        fails(errno.ENOSPC, make)
    (incoming / "1").write_bytes(b"a name that is there may be written to")
    (incoming / "0").rename(incoming / "renamed")
    (incoming / "1").unlink()
    makers[3] = lambda: os.link(incoming / "renamed", incoming / "one-more")
    makers[3]()
    fails(errno.ENOSPC, lambda: (incoming / "yet-another").write_bytes(b""))


@pytest.mark.promise("14.2")
def test_files_that_are_still_being_written_count_as_names(incoming: Path) -> None:
    for number in range(NAMES - 1):
        (incoming / f"{number}").mkdir()
    with (incoming / "open").open("wb"):
        fails(errno.ENOSPC, lambda: (incoming / "one-more").write_bytes(b""))


@pytest.mark.promise("14.3")
def test_a_path_that_is_too_long_is_enametoolong_however_it_comes_to_be(incoming: Path) -> None:
    deep = incoming / ("d" * 20)
    deep.mkdir()
    fitting = deep / ("f" * (PATH - 21))
    fitting.write_bytes(b"fits")
    longer = deep / ("f" * (PATH - 20))
    fails(errno.ENAMETOOLONG, lambda: longer.write_bytes(b""))
    fails(errno.ENAMETOOLONG, lambda: longer.mkdir())
    fails(errno.ENAMETOOLONG, lambda: longer.symlink_to("x"))
    fails(errno.ENAMETOOLONG, lambda: os.link(fitting, longer))
    fails(errno.ENAMETOOLONG, lambda: fitting.rename(longer))
    fails(errno.ENAMETOOLONG, lambda: deep.rename(incoming / ("d" * 21)))  # what lies in it counts
    deep.rename(incoming / ("d" * 19))
    assert (incoming / ("d" * 19) / fitting.name).read_bytes() == b"fits"


# Files being written at once: ENFILE.


@pytest.mark.promise("14.4")
@pytest.mark.parametrize("place", ["incoming", "tmp"])
def test_one_file_too_many_being_written_is_enfile_and_reading_goes_on(
    mount: Mount, incoming: Path, place: str
) -> None:
    drop(mount, "before", b"before")
    with ExitStack() as stack:
        for number in range(UPLOADS):
            opened = stack.enter_context(
                (mount.path / ("tmp", "incoming")[number % 2] / f"{number}").open("wb")
            )
            opened.write(b"%d" % number)
        fails(errno.ENFILE, lambda: (mount.path / place / "more").write_bytes(b""))
        assert not (mount.path / place / "more").exists()
        assert (incoming / "before").read_bytes() == b"before"
    (mount.path / place / "more").write_bytes(b"now there is room")
    for temp in (mount.path / "tmp").iterdir():
        temp.unlink()


# The disk, and the store: ENOSPC.


@pytest.mark.promise("14.5")
def test_of_the_disk_so_much_is_left_free_as_was_asked_for(tmp_path: Path) -> None:
    with Mount(tmp_path / "own") as mount:
        before = drop(mount, "before", b"before")
        mount.stop()
        disk = os.statvfs(tmp_path)
        mount.start("--keep-free", str(disk.f_blocks * disk.f_frsize))
        fails(errno.ENOSPC, lambda: (mount.path / "incoming" / "more").write_bytes(b"more"))
        fails(errno.ENOSPC, lambda: (mount.path / "tmp" / "more").write_bytes(b"more"))
        assert listed(mount.path / "objects") == {before}
        assert (mount.path / "incoming" / "before").read_bytes() == b"before"


@pytest.mark.promise("14.5")
def test_a_store_that_may_hold_no_more_objects_takes_those_that_it_has(tmp_path: Path) -> None:
    with Mount(tmp_path / "own", "--max-objects", "2") as mount:
        first, second = commit(mount.path, b"first"), drop(mount, "second", b"second")
        third = mount.path / "tmp" / "third"
        third.write_bytes(b"third")
        name = oid_of(b"third")
        fails(errno.ENOSPC, lambda: third.rename(mount.path / "objects" / name[:2] / name[2:4] / name))
        fails(errno.ENOSPC, lambda: drop(mount, "third", b"third"))
        assert commit(mount.path, b"first") == first
        assert drop(mount, "again", b"second") == second
        assert listed(mount.path / "objects") == {first, second}


def test_another_process_keeps_to_the_limits_of_the_daemon(mount: Mount, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"x" * (LARGEST + 1))
    assert "may have" in refused("put", "--store", mount.store, large)

    async def put() -> None:
        async with open_store(mount.store) as store:
            with pytest.raises(TooLarge):
                await store.put(b"x" * (LARGEST + 1))

    trio.run(put)


def test_a_daemon_takes_its_limits_away_and_writes_them_anew_where_they_are_damaged(tmp_path: Path) -> None:
    with Mount(tmp_path / "own", "--max-objects", "1") as mount:
        drop(mount, "one", b"one")
        mount.stop()
        (mount.store / "policy.toml").write_text("[limits]\nobjects = 'one'\n")
        assert "objects in [limits] cannot be 'one'" in refused("put", "--store", mount.store, __file__)
        mount.start("--max-objects", "2")
        drop(mount, "two", b"two")
        assert "may hold 2 objects" in refused("put", "--store", mount.store, __file__)
        mount.stop()
        mount.start("--umask", "022")
        drop(mount, "three", b"three")


# The server: 413, 422, 429, 507.


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    options = ("--max-object-size", str(LARGEST), "--max-objects", "2", "--max-path-length", str(PATH))
    with Served(tmp_path_factory.mktemp("served"), *options) as server:
        yield server


def test_an_object_that_is_too_large_is_413(served: Served) -> None:
    api = served.api("limits/large")
    content = b"x" * (LARGEST + 1)
    assert api.asked("upload", oid_of(content), len(content))["error"]["code"] == 422
    put = api.request("PUT", f"objects/{oid_of(content)}", data=content)
    assert (put.status_code, "may have" in put.text) == (413, True)
    pieces = (content[at : at + 10_000] for at in range(0, len(content), 10_000))  # nobody says how many
    assert api.request("PUT", f"objects/{oid_of(content)}", data=pieces).status_code == 413
    assert int(api.request("OPTIONS", f"uploads/{oid_of(content)}").headers["Tus-Max-Size"]) == LARGEST


def test_one_object_too_many_is_507_and_those_that_are_there_are_pushed_again(served: Served) -> None:
    api = served.api("limits/many")
    for content in (b"one", b"two"):
        api.put(content)
    put = api.request("PUT", f"objects/{oid_of(b'three')}", data=b"three")
    assert (put.status_code, "may hold 2 objects" in put.text) == (507, True)
    served.api("limits/other").put(b"two")


def test_a_name_that_is_too_long_is_422(served: Served) -> None:
    long = served.api("limits/" + "r" * (PATH - 6))
    assert long.request("PUT", f"objects/{oid_of(b'one')}", data=b"one").status_code == 422
    assert served.api("limits/locks").post("locks", {"path": "p" * PATH}).status_code == 201
    assert served.api("limits/locks").post("locks", {"path": "p" * (PATH + 1)}).status_code == 422


def test_one_upload_too_many_is_429_and_says_when_to_try_again(tmp_path: Path) -> None:
    with Served(tmp_path, "--max-open-uploads", "1") as server:
        refuses_a_second_upload(server)


def refuses_a_second_upload(server: Served) -> None:
    """Until the first of the two was the first there, which the client cannot see."""
    for attempt in range(20):
        if is_second_refused(server.api("limits/at-once"), attempt):
            return
    raise AssertionError("the second upload was there first each time")


def is_second_refused(api: Api, attempt: int) -> bool:
    """Whether it came while the first one was under way; then it was refused."""
    content, other = b"%02d" % attempt * (50 * KIB), b"other %d" % attempt
    seconds: list[requests.Response] = []

    def second() -> requests.Response:
        return api.request("PUT", f"objects/{oid_of(other)}", data=other)

    def slowly() -> Iterator[bytes]:
        yield content[: 80 * KIB]
        time.sleep(0.1 * attempt)
        seconds.append(second())
        if seconds[0].status_code == 429:
            tus = {"Tus-Resumable": "1.0.0", "Upload-Length": "3"}
            assert api.request("POST", f"uploads/{oid_of(b'one')}", headers=tus).status_code == 429
        yield content[80 * KIB :]

    first = api.request("PUT", f"objects/{oid_of(content)}", data=slowly())
    assert second().status_code == 200
    if seconds[0].status_code == 200:
        return False
    assert seconds[0].status_code == 429
    assert seconds[0].headers["Retry-After"] == "5"
    assert first.status_code == 200
    return True


async def test_the_store_says_so_in_its_own_words(tmp_path: Path) -> None:
    from lfsfs.config_policy import LimitOptions, Policy, QuotaOptions

    policy = Policy(LimitOptions(), QuotaOptions(store=10))
    async with open_store(tmp_path / "store", create=True, policy=policy) as store:
        await store.put(b"123456")
        await store.put(b"123456")
        with pytest.raises(NoSpace, match="may hold 10 B"):
            await store.put(b"12345")
        await store.put(b"1234")
