"""A server that the tests of a module share, and clones that use it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gitlfs.bench import git_environment

from .clones import Team
from .served import Api, Served


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.fixture
def api(served: Served, request: pytest.FixtureRequest) -> Api:
    """The API of a repository that no other test uses."""
    return served.api(f"tests/{request.node.name.partition('[')[0]}-{id(request.node):x}")


@pytest.fixture(scope="session")
def git_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return git_environment(tmp_path_factory.mktemp("home"))


@pytest.fixture
def team(tmp_path: Path, git_env: dict[str, str]) -> Callable[[str], Team]:
    """Makes a bare repository and clones of it that have this URL for their LFS server."""
    return lambda url: Team(tmp_path, git_env, url)
