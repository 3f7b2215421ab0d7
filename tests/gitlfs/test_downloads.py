"""What comes over the wire: cut, resumed, wrong, stalled and killed downloads."""

import os
import signal
import subprocess

import pytest

from .bench import KIB, MIB, Bench, Clone, Remote, oid_of
from .lfs_server import Stall

SIZE = 3 * MIB
CUT = MIB + 5 * KIB + 3
REACHED_SECONDS = 30


def without_content(bench: Bench, remote: Remote) -> Clone:
    """A clone that has only pointers, and tries each transfer once."""
    clone, done = bench.try_clone(remote, "clone", env={"GIT_LFS_SKIP_SMUDGE": "1"})
    assert done.status == 0, done
    clone.config("lfs.transfer.maxretries", "1")
    return clone


def killed_half_way(clone: Clone, stall: Stall, command: list[str], how: signal.Signals) -> None:
    """Kills a command, and whatever it started, once the server has sent half of the object."""
    with subprocess.Popen(
        command,
        cwd=clone.path,
        env=clone.env,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as victim:
        assert stall.reached.wait(REACHED_SECONDS), "the download never began"
        os.killpg(victim.pid, how)
    stall.go_on()


def test_a_cut_download_is_kept_and_the_next_pull_resumes_it_with_a_range(bench: Bench) -> None:
    remote, content = bench.remote("http"), bench.blob(SIZE)
    _, oids = bench.upstream({"a.bin": content}, remote)
    oid, clone = oids["a.bin"], without_content(bench, remote)
    bench.server.cut(oid, after=CUT, times=99)
    clone.fails("lfs", "pull")
    assert clone.objects() == set()
    assert clone.left_in("incomplete") == [f"{oid}.part"]
    have = (clone.root / "incomplete" / f"{oid}.part").read_bytes()
    assert have == content[: len(have)]
    assert len(have) >= CUT
    tried = len(bench.server.ranges(oid))
    bench.server.send_whole(oid)
    clone.git("lfs", "pull")
    assert bench.server.ranges(oid)[tried:] == [f"bytes={len(have)}-{SIZE - 1}"]
    assert clone.read("a.bin") == content
    assert clone.object(oid).read_bytes() == content
    assert clone.left_in("incomplete") == []


def test_a_download_cut_again_and_again_still_arrives(bench: Bench) -> None:
    remote, content = bench.remote("http"), bench.blob(SIZE)
    _, oids = bench.upstream({"a.bin": content}, remote)
    oid, clone = oids["a.bin"], without_content(bench, remote)
    clone.config("lfs.transfer.maxretries", "8")
    bench.server.cut(oid, after=MIB // 2, times=3)
    clone.git("lfs", "pull")
    assert clone.read("a.bin") == content
    assert bench.server.downloads(oid) == 4
    assert clone.left_in("incomplete") == []


@pytest.mark.promise("1.3")
@pytest.mark.parametrize("wrong_size", [SIZE, SIZE - 7, SIZE + 7])
def test_a_wrong_body_is_an_error_leaves_no_object_and_the_next_try_succeeds(
    bench: Bench, wrong_size: int
) -> None:
    remote, content = bench.remote("http"), bench.blob(SIZE)
    _, oids = bench.upstream({"a.bin": content}, remote)
    oid, clone = oids["a.bin"], without_content(bench, remote)
    wrong = bench.blob(wrong_size)
    bench.server.answer_wrong_once(oid, wrong)
    clone.fails("lfs", "pull")
    assert clone.objects() == set()
    assert not clone.object(oid).exists()
    assert clone.read("a.bin").startswith(b"version https://git-lfs")
    for _ in range(2):  # git-lfs keeps the wrong .part, and may have to find out once more that it is wrong
        clone.run("lfs", "pull")
    assert clone.read("a.bin") == content
    assert oid_of(clone.object(oid).read_bytes()) == oid


@pytest.mark.promise("1.4")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_client_killed_half_way_leaves_no_object_and_the_next_pull_brings_it(
    bench: Bench, how: signal.Signals
) -> None:
    remote, content = bench.remote("http"), bench.blob(SIZE)
    _, oids = bench.upstream({"a.bin": content}, remote)
    oid, clone = oids["a.bin"], without_content(bench, remote)
    killed_half_way(clone, bench.server.stall(oid, after=CUT), ["git", "lfs", "pull"], how)
    assert clone.objects() == set()
    assert not clone.object(oid).exists()
    clone.git("lfs", "pull")
    assert clone.read("a.bin") == content


def test_two_pulls_of_the_same_object_at_once_both_succeed(bench: Bench) -> None:
    remote, content = bench.remote("http"), bench.blob(SIZE)
    _, oids = bench.upstream({"a.bin": content}, remote)
    oid, clone = oids["a.bin"], without_content(bench, remote)
    stall = bench.server.stall(oid, after=CUT)
    slow = subprocess.Popen(["git", "lfs", "fetch"], cwd=clone.path, env=clone.env, stderr=subprocess.DEVNULL)
    assert stall.reached.wait(REACHED_SECONDS)
    clone.git("lfs", "pull")
    assert clone.read("a.bin") == content
    with clone.object(oid).open("rb") as reader:  # held open while the slow one renames the same oid over it
        first = reader.read(KIB)
        stall.go_on()
        assert slow.wait(REACHED_SECONDS) == 0
        assert first + reader.read() == content
    assert clone.object(oid).read_bytes() == content
    assert (clone.left_in("tmp"), clone.left_in("incomplete")) == ([], [])


def test_a_download_through_the_smudge_filter_resumes_at_the_next_checkout(bench: Bench) -> None:
    remote, content = bench.remote("http"), bench.blob(SIZE)
    _, oids = bench.upstream({"a.bin": content}, remote)
    oid, clone = oids["a.bin"], without_content(bench, remote)
    (clone.path / "a.bin").unlink()
    bench.server.cut(oid, after=100 * KIB, times=99)
    clone.fails("checkout", "--", "a.bin")
    bench.server.send_whole(oid)
    clone.git("checkout", "--", "a.bin")
    assert clone.read("a.bin") == content
    assert bench.server.ranges(oid)[-1] is not None
