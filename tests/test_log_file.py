"""The log of a daemon in the background stays small, and what was logged last is in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from gitlfs.mounted import Mount, within

from lfsfs import log_file

LIMIT = 64 << 10


@pytest.mark.mount
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_daemon_turns_its_log_over_and_goes_on_in_a_new_one(tmp_path: Path) -> None:
    config = tmp_path / "lfsfs.toml"
    config.write_text(f'[log]\nlevel = "debug"\nsize = "{LIMIT >> 10}KiB"\n')
    with Mount(tmp_path / "m", "--config", str(config)) as mount:
        log, earlier = mount.store / "daemon.log", mount.store / "daemon.log.1"
        number = 0
        while log.stat().st_size < LIMIT:
            assert not (mount.path / "incoming" / f"not there {number}").exists()
            number += 1
        assert within(30, earlier.exists)
        assert log.stat().st_mode == earlier.stat().st_mode
        assert not (mount.path / "incoming" / "the last one").exists()
        assert within(10, lambda: "the last one" in log.read_text())
        assert "is mounted at" in earlier.read_text()
        assert log.stat().st_size < LIMIT


def test_only_a_file_that_still_has_its_name_is_turned_over(tmp_path: Path) -> None:
    assert log_file.log_of(os.open("/dev/null", os.O_WRONLY)) is None
    reading, writing = os.pipe()
    assert log_file.log_of(writing) is None
    for descriptor in (reading, writing):
        os.close(descriptor)
    file = tmp_path / "log"
    with file.open("w") as written:
        assert log_file.log_of(written.fileno()) == file
        file.rename(tmp_path / "other")
        assert log_file.log_of(written.fileno()) == tmp_path / "other"
        (tmp_path / "other").unlink()
        assert log_file.log_of(written.fileno()) is None


def test_what_children_write_goes_to_the_new_one_too(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys; from lfsfs.log_file import *; print('a', file=sys.stderr, flush=True);"
        "turn_over(log_of(2)); os.system('echo b >&2; echo c')"
    )
    log = tmp_path / "log"
    with log.open("a") as opened:
        subprocess.run([sys.executable, "-c", program], stderr=opened, stdout=opened, check=True, timeout=60)
    assert (tmp_path / "log.1").read_text() == "a\n"
    assert log.read_text() == "b\nc\n"
