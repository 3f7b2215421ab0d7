"""The scripts that people type: quick when there is nothing to do, honest when something is wrong, tidy."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "scripts"
LEAKS = [sys.executable, str(SCRIPTS / "leaks.py")]
NOTHING_TO_DO_SECONDS = 1.0
DEMO_SECONDS = 240


def run(*command: str | Path, seconds: float = 60, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs without a terminal and without input, as a service or a pipeline would."""
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        **options,
    )


def processes(word: str) -> list[str]:
    """The command lines of running processes that hold a word."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (OSError, NotADirectoryError):
            continue
        if word in line:
            found.append(line)
    return found


@pytest.fixture
def bare_debian(tmp_path: Path) -> dict[str, str]:
    """An environment in which no Debian package is installed and nobody is root, nor can become it."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("bash", "dirname", "flock", "sha256sum", "cat", "grep", "env", "tail", "mktemp", "rm"):
        (commands / name).symlink_to(shutil.which(name) or name)
    (commands / "dpkg-query").write_text("#!/bin/bash\nexit 1\n")
    (commands / "id").write_text("#!/bin/bash\necho 1000\n")
    for name in ("dpkg-query", "id"):
        (commands / name).chmod(0o755)
    return {"PATH": str(commands), "HOME": str(tmp_path)}


class TestInstall:
    def test_the_second_time_it_says_nothing_and_takes_less_than_a_second(self) -> None:
        assert run(SCRIPTS / "install", seconds=300).returncode == 0
        started = time.monotonic()
        again = run(SCRIPTS / "install")
        assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
        assert time.monotonic() - started < NOTHING_TO_DO_SECONDS

    def test_without_root_and_sudo_it_names_the_packages_and_stops(
        self, tmp_path: Path, bare_debian: dict[str, str]
    ) -> None:
        copy = self._copy(tmp_path)
        done = run(copy / "scripts" / "install", env=bare_debian)
        assert done.returncode == 1
        assert re.search(r"As root, type:\n +apt-get install fuse3 libmagic1 .*git-lfs", done.stderr)
        assert not (copy / ".venv").exists()

    def test_an_unsuitable_python_is_refused_by_name(self, tmp_path: Path) -> None:
        done = run(self._copy(tmp_path) / "scripts" / "install", env=os.environ | {"PYTHON": "/bin/false"})
        assert done.returncode == 1
        assert "PYTHON=/bin/false is not that" in done.stderr

    def _copy(self, tmp_path: Path) -> Path:
        copy = tmp_path / "copy"
        shutil.copytree(SCRIPTS, copy / "scripts")
        shutil.copy(ROOT / "pyproject.toml", copy)
        return copy


class TestLeaks:
    """scripts/test runs pytest under leaks.py."""

    def test_the_status_of_the_command_is_passed_on(self) -> None:
        assert run(*LEAKS, "true").returncode == 0
        assert run(*LEAKS, "bash", "-c", "exit 3").returncode == 3
        assert run(*LEAKS, "bash", "-c", "kill -KILL $$").returncode == 128 + signal.SIGKILL

    def test_a_process_left_behind_is_named_ended_and_an_error(self) -> None:
        done = run(*LEAKS, "bash", "-c", "setsid sleep 61.25 >/dev/null 2>&1 &")
        assert done.returncode == 1
        assert re.search(r"left behind: process \d+: sleep 61.25", done.stderr)
        assert not processes("sleep 61.25")

    def test_a_process_that_is_just_ending_is_none(self) -> None:
        assert run(*LEAKS, "bash", "-c", "setsid sleep 0.5 >/dev/null 2>&1 &").returncode == 0

    def test_the_temporary_folder_is_the_commands_own_and_goes_with_it(self) -> None:
        folder = Path(run(*LEAKS, "bash", "-c", 'touch "$TMPDIR/file"; echo "$TMPDIR"').stdout.strip())
        assert folder.name.startswith("lfsfs-run-")
        assert not folder.exists()

    @pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs takes root")
    def test_a_mount_left_behind_is_named_removed_and_an_error(self) -> None:
        script = 'mkdir "$TMPDIR/m" && mount -t tmpfs none "$TMPDIR/m" && echo "$TMPDIR/m"'
        done = run(*LEAKS, "bash", "-c", script)
        assert done.returncode == 1
        mountpoint = done.stdout.strip()
        assert f"left behind: mount {mountpoint}" in done.stderr
        assert mountpoint not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.slow
class TestCheck:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        """A copy of the sources that scripts/check judges with this installation's tools."""
        for name in ("lfsfs", "scripts"):
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tmp_path)
        (tmp_path / ".venv").symlink_to(ROOT / ".venv")
        return tmp_path

    def test_each_mistake_is_found_by_the_tool_for_it(self, tree: Path) -> None:
        mistakes = [
            ("import os\n", "ruff check", "F401"),
            ("x = {  }\n", "ruff format", "wrong_1.py"),
            ("def double(x):\n    return 2 * x\n", "mypy --strict", "missing a type annotation"),
            ("import lfsfs.store\n\nprint(lfsfs.store)\n", "import-linter", "lfsfs.tiers.wrong_3"),
        ]
        for number, (mistake, _, _) in enumerate(mistakes):
            (tree / "lfsfs" / "tiers" / f"wrong_{number}.py").write_text(mistake)
        done = run(tree / "scripts" / "check", seconds=200)
        assert done.returncode == 1
        for number, (_, tool, said) in enumerate(mistakes):
            report = done.stdout.partition(f"check: {tool}")[2].partition("\ncheck: ")[0]
            assert report.lstrip().startswith("FAILED")
            assert said in report
            assert f"wrong_{number}" in report


@pytest.mark.slow
@pytest.mark.mount
@pytest.mark.timeout(DEMO_SECONDS + 60)
class TestDemo:
    @pytest.fixture
    def temporary(self, tmp_path: Path) -> Iterator[dict[str, str]]:
        """The environment for a demo whose folder is ours to look at; nothing of it may be left."""
        folder = tmp_path / "temporary"
        folder.mkdir()
        yield os.environ | {"TMPDIR": str(folder)}
        assert list(folder.iterdir()) == []
        assert str(folder) not in Path("/proc/self/mountinfo").read_text()
        assert not processes(str(folder))

    def test_it_holds_all_it_claims_and_leaves_nothing(self, temporary: dict[str, str]) -> None:
        done = run(SCRIPTS / "demo", seconds=DEMO_SECONDS, env=temporary)
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(r"\d+ claims checked, all of them true", done.stdout)
        assert "\033[" not in done.stdout, "colour without a terminal"

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
    def test_interrupted_it_cleans_up_and_says_so(
        self, temporary: dict[str, str], how: signal.Signals
    ) -> None:
        demo = subprocess.Popen(
            [SCRIPTS / "demo"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env=temporary
        )
        with demo:
            assert demo.stdout is not None
            said = _until(demo.stdout.readline, "Anna pushes")
            demo.send_signal(how)
            said += demo.stdout.read()
        assert demo.returncode == 130
        assert f"ended by {how.name}" in said


class TestTorture:
    @pytest.fixture(autouse=True)
    def records(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Where its runs are written down: not in docs/."""
        monkeypatch.setenv("LFSFS_RELIABILITY", str(tmp_path))
        return tmp_path / "RELIABILITY.md"

    def test_it_runs_rounds_until_its_time_is_over_and_a_failure_ends_it(self, records: Path) -> None:
        refused = run(SCRIPTS / "torture", "soon")
        assert (refused.returncode, refused.stderr) == (2, "torture: not a number of minutes: soon\n")
        failed = run(SCRIPTS / "torture", "5", "-k", "no_test_is_called_like_this", seconds=120)
        assert failed.returncode == pytest.ExitCode.NO_TESTS_COLLECTED
        assert "torture: failed in round 1" in failed.stderr
        assert "| FAILED |" in records.read_text()

    @pytest.mark.mount
    @pytest.mark.slow
    @pytest.mark.timeout(600)
    def test_the_run_over_many_objects_measures_each_step(self) -> None:
        done = run(SCRIPTS / "torture", "many", "2000", seconds=500)
        assert done.returncode == 0, done.stdout + done.stderr
        for step in ("mount", "ls objects/aa", "lfsfs status", "walk of repos/r/objects", "git lfs prune"):
            assert step in done.stdout
        assert "when the kernel has forgotten them" in done.stdout or os.geteuid() != 0


def _until(readline: Callable[[], str], word: str) -> str:
    said = ""
    while word not in said:
        line = readline()
        assert line, f"it ended before it said {word!r}:\n{said}"
        said += line
    return said
