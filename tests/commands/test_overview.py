"""`lfsfs` alone and `lfsfs doctor`: what there is, how it does, what to do next; and mending what can be mended."""

import json
import os
import pty
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from commands.elsewhere import LFSFS, programs, run
from lfsfs.cli import machine
from lfsfs.cli.main import main

pytestmark = pytest.mark.timeout(90)
Said = Callable[..., tuple[int, str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Said:
    """Runs a command here, with a state of its own; its exit status and what it prints."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("LFSFS_STORE", raising=False)

    def said(*arguments: str | Path) -> tuple[int, str]:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return status, capsys.readouterr().out

    return said


def test_lfsfs_alone_is_no_error_and_says_how_to_begin(said: Said) -> None:
    status, shown = said()
    assert status == 0
    assert "machine" in shown
    assert "lfsfs --help" in shown


@pytest.mark.mount
def test_lfsfs_alone_shows_what_is_mounted_what_was_and_what_does_not_answer(
    said: Said, tmp_path: Path
) -> None:
    store, mountpoint = tmp_path / "store", tmp_path / "mnt"
    subprocess.run([LFSFS, "mount", store, mountpoint], check=True, timeout=60, stdout=subprocess.DEVNULL)
    try:
        (mountpoint / "incoming" / "a").write_bytes(b"12345")
        assert f"ok     {mountpoint}: {store}: 1 objects (5 B)" in said()[1]
        assert "lfsfs attach" in said()[1]
        pid = json.loads((mountpoint / ".lfsfs" / "status").read_text())["pid"]
        os.kill(pid, 9)
        shown = said()[1]
        assert f"FAILS  {mountpoint}: {store}: its daemon is gone" in shown
        assert f"lfsfs unmount {mountpoint}" in shown
    finally:
        subprocess.run([LFSFS, "unmount", mountpoint], check=True, timeout=60)
    shown = said()[1]
    assert f"{store}: not mounted" in shown
    assert f"lfsfs mount {store} MNT" in shown
    shutil.rmtree(store)
    assert str(store) not in said()[1], "what is gone is not spoken of"


def test_the_doctor_tells_of_machine_and_disk_as_text_and_json(said: Said, tmp_path: Path) -> None:
    status, shown = said("doctor", "--json")
    report = json.loads(shown)
    assert report["ready"] == (status == 0)
    found = {finding["name"]: finding for finding in report["findings"]}
    assert {"kernel", "FUSE in the kernel", "/dev/fuse", "fusermount3", "user_allow_other", "git", "git-lfs",
            "git-lfs in git", "open files", "clock"} <= found.keys()  # fmt: skip
    assert all(finding["remedy"] for finding in report["findings"] if finding["verdict"] != "ok")
    assert all(f"{name}: {one['detail']}" in said("doctor")[1] for name, one in found.items())


@pytest.mark.slow
def test_the_doctor_looks_at_the_disk_and_the_bucket_of_each_store(tmp_path: Path) -> None:
    store = tmp_path / "store"
    made = run("mount", store, tmp_path / "mnt", XDG_STATE_HOME=str(tmp_path / "state"))
    assert made.returncode == 0, made.stderr
    subprocess.run([LFSFS, "unmount", tmp_path / "mnt"], check=True, timeout=60)
    (store / "remote.toml").write_text(
        '[s3]\nurl = "s3://some-bucket/lfs"\nendpoint = "http://127.0.0.1:1"\n'
    )
    told = run(
        "doctor", XDG_STATE_HOME=str(tmp_path / "state"), AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="y"
    )
    assert told.returncode == 1
    assert f"disk of {store}: " in told.stdout
    assert f"FAILS  s3://some-bucket/lfs of {store}: " in told.stdout
    assert "lfsfs doctor s3://some-bucket/lfs --s3-endpoint http://127.0.0.1:1 says more" in told.stdout


def test_fix_runs_what_mends_and_looks_again(tmp_path: Path) -> None:
    path = programs(tmp_path / "bin", "git", "git-lfs", "fusermount3", "sh")
    home = tmp_path / "home"
    home.mkdir()
    bare = {"HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "XDG_STATE_HOME": str(tmp_path / "state")}
    assert "note   git-lfs in git: its filter is not set" in run("doctor", path=path, **bare).stdout
    told = run("doctor", "--fix", path=path, **bare)
    assert told.returncode == 2
    assert "give --yes" in told.stderr
    mended = run("doctor", "--fix", "--yes", "--json", path=path, **bare)
    assert "running git lfs install --skip-repo" in mended.stderr
    found = {finding["name"]: finding["verdict"] for finding in json.loads(mended.stdout)["findings"]}
    assert found["git-lfs in git"] == "ok"
    assert "[filter" in (home / ".gitconfig").read_text()


def test_fix_asks_first(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    bare = {"HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1", "XDG_STATE_HOME": str(tmp_path / "state")}
    ours, theirs = pty.openpty()
    with subprocess.Popen([LFSFS, "doctor", "--fix"], stdin=theirs, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
                          env=os.environ | bare) as doctor:  # fmt: skip
        os.write(ours, b"n\n" * 10)
        _, asked = doctor.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert b"git-lfs in git: run `git lfs install --skip-repo`? [y/N]" in asked
    assert not (home / ".gitconfig").exists()


def test_a_command_that_needs_root_is_shown_as_this_user_types_it() -> None:
    finding = machine.Finding("x", "no", "y", "do", ("modprobe", "fuse"))
    from lfsfs.cli.examining import remedy

    shown = remedy(finding)
    assert (
        shown == "do: modprobe fuse" if os.geteuid() == 0 else shown.startswith(("do: sudo ", "do: su -c "))
    )


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
                         ids=["plain", "no-color", "dumb"])  # fmt: skip
def test_colour_is_for_terminals_and_respects_no_color(
    variables: dict[str, str], coloured: bool, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TERM": "xterm"} | variables
    subprocess.run([LFSFS, "doctor"], stdout=theirs, stderr=theirs, env=environment, timeout=60)
    os.close(theirs)
    shown = os.read(ours, 65536)
    os.close(ours)
    assert (b"\x1b[" in shown) == coloured
    piped = subprocess.run([LFSFS, "doctor"], capture_output=True, env=environment, timeout=60)
    assert b"\x1b" not in piped.stdout + piped.stderr
