"""That an object is not there the kernel remembers for a moment; what is made meanwhile is seen at once all the same."""

import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gitlfs.mounted import Mount, lfsfs

pytestmark = [pytest.mark.mount, pytest.mark.timeout(60)]
ROOTS = ("", "repos/one", "repos/two")


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    with Mount(tmp_path) as mount:
        for name in ROOTS[1:]:
            (mount.path / name).mkdir()
        yield mount


def places(mount: Mount, content: bytes) -> list[Path]:
    """Where an object of this content is to be seen, in every root."""
    oid = hashlib.sha256(content).hexdigest()
    return [mount.path / root / "objects" / oid[:2] / oid[2:4] / oid for root in ROOTS]


@pytest.mark.promise("6.5")
def test_a_file_that_is_closed_in_incoming_is_an_object_at_once(mount: Mount) -> None:
    for _ in range(20):
        content = os.urandom(4096)
        assert not any(place.exists() for place in places(mount, content))
        (mount.path / "incoming" / "file").write_bytes(content)
        assert all(place.read_bytes() == content for place in places(mount, content))


@pytest.mark.promise("6.5")
@pytest.mark.parametrize("size", [100, 65_536, 65_537, 300_000])
def test_what_one_root_gets_by_a_rename_the_others_have_at_once(mount: Mount, size: int) -> None:
    for number in range(5):
        content = os.urandom(size)
        temp = mount.path / "repos" / "one" / "tmp" / f"{number}"
        temp.write_bytes(content)
        assert not any(place.exists() for place in places(mount, content))
        os.rename(temp, places(mount, content)[1])
        assert all(place.read_bytes() == content for place in places(mount, content))
        assert not temp.exists()
    assert not list((mount.store / "repos" / "one" / "tmp").iterdir())
    assert not [
        file for file in (mount.store / "staging").rglob("*") if file.is_file() and file.name != "lock"
    ]


def test_two_who_make_the_same_in_two_roots_do_not_wait_for_each_other(mount: Mount) -> None:
    for number in range(10):
        content = os.urandom(5000)
        temps = [mount.path / root / "tmp" / f"{number}" for root in ROOTS]
        for temp in temps:
            temp.write_bytes(content)
        assert not any(place.exists() for place in places(mount, content))
        begun = time.monotonic()
        threads = [
            threading.Thread(target=os.rename, args=pair)
            for pair in zip(temps, places(mount, content), strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.monotonic() - begun < 5
        assert all(place.read_bytes() == content for place in places(mount, content))


@pytest.mark.promise("6.5")
def test_what_another_process_makes_shows_within_a_second(mount: Mount, tmp_path: Path) -> None:
    content = os.urandom(4096)
    assert not any(place.exists() for place in places(mount, content))
    (tmp_path / "file").write_bytes(content)
    lfsfs("put", "--store", mount.store, tmp_path / "file")
    time.sleep(0.5)
    assert all(place.exists() for place in places(mount, content))


def test_to_look_again_for_what_is_not_there_costs_no_request(mount: Mount) -> None:
    """git-lfs looks three times for an object before it makes it, and twice for a temporary file that it has moved."""
    absent = [*places(mount, b"nothing"), mount.path / "repos" / "one" / "tmp" / "nothing"]
    before = _lookups(mount)
    for _ in range(100):
        assert not any(place.exists() for place in absent)
    assert _lookups(mount) - before < 10, "of 400 one in eleven is counted"


def _lookups(mount: Mount) -> int:
    text = (mount.path / ".lfsfs" / "metrics").read_text()
    found = re.search(r'lfsfs_operation_seconds_count\{operation="lookup"\} (\d+)', text)
    return int(found.group(1)) if found else 0
