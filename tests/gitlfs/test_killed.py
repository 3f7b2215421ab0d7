"""git-lfs killed while it adds: no object appears that is not whole, and the next add works."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .bench import KIB, MIB, Bench, Clone, oid_of
from .mounted import within

APPEARS_SECONDS = 30
HOUR = 3600


def temporaries(clone: Clone) -> list[Path]:
    """The non-empty files in tmp/."""
    return [path for path in (clone.root / "tmp").iterdir() if path.is_file() and path.stat().st_size]


@pytest.mark.promise("1.4")
def test_a_clean_killed_in_the_middle_leaves_no_object_and_the_next_add_works(bench: Bench) -> None:
    repo, content = bench.init("repo"), bench.blob(4 * MIB)
    (repo.root / "tmp").mkdir(parents=True, exist_ok=True)
    command = ["git", "lfs", "clean", "a.bin"]
    with subprocess.Popen(
        command,
        cwd=repo.path,
        env=repo.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    ) as victim:
        assert victim.stdin is not None
        victim.stdin.write(content[: 2 * MIB])
        victim.stdin.flush()
        assert within(APPEARS_SECONDS, lambda: bool(temporaries(repo)))
        os.killpg(victim.pid, signal.SIGKILL)
    assert repo.objects() == set()
    oid = repo.commit({"a.bin": content})["a.bin"]
    assert repo.objects() == {oid}
    assert repo.checked_out_afresh("a.bin") == content


@pytest.mark.promise("1.4")
def test_an_add_of_many_files_killed_in_the_middle_leaves_only_whole_objects(bench: Bench) -> None:
    repo = bench.init("repo")
    files = {f"{n}.bin": bench.blob(700 * KIB + n) for n in range(24)}
    for name, content in files.items():
        repo.write(name, content)
    with subprocess.Popen(
        ["git", "add", "-A"], cwd=repo.path, env=repo.env, start_new_session=True
    ) as victim:
        assert within(APPEARS_SECONDS, lambda: bool(repo.objects()))
        os.killpg(victim.pid, signal.SIGKILL)
    for oid in repo.objects():
        assert oid_of(repo.object(oid).read_bytes()) == oid
    (repo.path / ".git" / "index.lock").unlink(missing_ok=True)
    repo.commit()
    assert {name: repo.checked_out_afresh(name) for name in files} == files
    assert repo.objects() == {oid_of(content) for content in files.values()}


def test_what_a_killed_client_left_in_tmp_is_cleared_after_an_hour_and_not_before(bench: Bench) -> None:
    repo = bench.init("repo")
    repo.commit({"a.bin": bench.blob()})
    fresh, old = repo.root / "tmp" / "1111111111", repo.root / "tmp" / "2222222222"
    for path in (fresh, old):
        path.write_bytes(b"half of a fi")
    then = time.time() - HOUR - 60
    os.utime(old, (then, then))
    repo.git("lfs", "ls-files")
    assert fresh.exists()
    assert not old.exists()
