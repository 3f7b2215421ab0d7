"""What all tests share: how large they are, how long hypothesis looks for a counterexample, and a scanner of viruses."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from clamav import Clamav
from hypothesis import settings
from recording import Reliability

settings.register_profile("lfsfs", deadline=None)  # a busy machine is no counterexample
settings.register_profile("torture", deadline=None, max_examples=5_000)  # scripts/torture
settings.load_profile("lfsfs")
# No test adds to the stores of who runs it.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="lfsfs-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", metavar="FOLDER", help="where the browser's go, to be looked at")
    parser.addoption("--full-size", action="store_true", help="the long runs at full size (scripts/torture)")


@pytest.fixture
def full_size(request: pytest.FixtureRequest) -> bool:
    """Whether a test that takes long is to take as long as it is meant to."""
    return bool(request.config.getoption("--full-size"))


@pytest.fixture
def reliability(full_size: bool) -> Reliability:
    """Writes down what was tried: in docs/ where scripts/torture runs the test at full size, else on standard output."""
    command = os.environ.get("LFSFS_TORTURE", "")

    def record(what: str, tried: str, result: str) -> None:
        print(f"{what}: {tried}: {result}")
        if command and full_size:
            script = Path(__file__).parents[1] / "scripts" / "reliability.py"
            subprocess.run(
                [sys.executable, script, "add", command, what, tried, result], check=True, timeout=60
            )

    return record


@pytest.fixture(scope="session")
def clamav() -> Iterator[Clamav]:
    """A clamd that runs. Who stops it starts it again."""
    found = Clamav()
    try:
        found.start()
        yield found
    finally:
        found.remove()
