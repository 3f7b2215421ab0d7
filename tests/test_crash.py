"""The daemon killed at every fsync, link, rename, unlink and index commit of a write, one after another."""

import os
from pathlib import Path

import pytest
from gitlfs.mounted import Mount, is_running, within
from test_promises import commit, drop, listed, oid_of, read

CONTENTS = {"first": b"first" * 1000, "second": b"second" * 300_000}
BOUND = 200


def write_all(mount: Mount) -> list[str]:
    """Writes through incoming/ and through a repository root; the oids of what was acknowledged."""
    done = []
    try:
        (mount.path / "repos" / "r").mkdir(exist_ok=True)
        done.append(commit(mount.path / "repos" / "r", CONTENTS["first"]))
        done.append(drop(mount, "second", CONTENTS["second"]))
    except OSError:
        pass  # the daemon was killed: what matters is what it had said before
    return done


def left_staged(store: Path) -> list[Path]:
    return [path for path in (store / "staging").rglob("*") if path.is_file() and path.name != "lock"]


@pytest.mark.mount
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.promise("2.3")
def test_killed_at_every_step_of_a_write_nothing_acknowledged_is_lost_and_nothing_is_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {oid_of(content): content for content in CONTENTS.values()}
    killed = 0
    for point in range(1, BOUND):
        mount = Mount(tmp_path / str(point))
        with mount:
            pass  # the store is made, and no step of making it is counted below
        with monkeypatch.context() as patched:
            patched.setenv("LFSFS_FAULT", f"kill:{point}")
            mount.start()
        pid = mount.pid
        acknowledged = write_all(mount)
        survived = len(acknowledged) == len(CONTENTS) and not within(0.3, lambda pid=pid: not is_running(pid))
        if survived:
            mount.stop()
        else:
            killed += 1
            assert within(10, lambda pid=pid: not is_running(pid))
        with mount:
            found = listed(mount.path / "objects")
            assert set(acknowledged) <= found <= set(expected)
            assert {oid: read(mount, oid) for oid in found} == {oid: expected[oid] for oid in found}
            if expected.keys() == set(acknowledged):
                assert (mount.path / "incoming" / "second").read_bytes() == CONTENTS["second"]
            assert left_staged(mount.store) == []
            assert write_all(mount) == list(expected)
        if survived:
            break
    else:
        pytest.fail(f"the write has more than {BOUND} steps")
    assert killed > 10, "the kills did not reach the write"
    assert os.listdir(tmp_path)
