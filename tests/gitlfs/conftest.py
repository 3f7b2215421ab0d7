"""Every test here runs on a native .git/lfs and on a mounted store; what holds on both is "as on native"."""

import re
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from .bench import Bench, Native, OnMount, Storage, git_environment
from .lfs_server import LfsServer
from .mounted import Mount, mounts_below, processes_that_name, within


@pytest.fixture(scope="session")
def git_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return git_environment(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session", autouse=True)
def nothing_leaks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A mount or a process that outlives the tests is an error of the whole session."""
    ours = tmp_path_factory.getbasetemp()
    yield
    assert not mounts_below(ours), "mounts are left"

    def left() -> list[str]:
        return [process for process in processes_that_name(ours) if _is_ours(process)]

    within(20, lambda: not left())  # that of a mount which was taken away just now ends in a moment
    assert not left(), "processes are left"


def _is_ours(process: str) -> bool:
    """Whether it runs lfsfs or git-lfs: the servers of other tests end with the session as well."""
    program = process.split()[1]
    return not program.startswith(("ceph-", "radosgw")) and "moto.server" not in process


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, git_env: dict[str, str]) -> Iterator[LfsServer]:
    with LfsServer(tmp_path_factory.mktemp("remotes"), git_env) as server:
        yield server


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """The mount that the tests of one module share; each clone has its own root on it."""
    folder = tmp_path_factory.mktemp("mount")
    with Mount(folder) as mount:
        yield mount
    shutil.rmtree(folder)


@pytest.fixture(scope="module", params=["native", pytest.param("lfsfs", marks=pytest.mark.mount)])
def storage(request: pytest.FixtureRequest) -> Storage:
    if request.param == "native":
        return Native()
    return OnMount(request.getfixturevalue("mount"))


@pytest.fixture
def new_bench(
    tmp_path: Path, git_env: dict[str, str], server: LfsServer, request: pytest.FixtureRequest
) -> Callable[[Storage], Bench]:
    """Makes a bench on a given storage."""
    label = re.sub(r"\W+", "-", request.node.name).strip("-")[-60:]
    return lambda storage: Bench(tmp_path, storage, git_env, server, label)


@pytest.fixture
def bench(new_bench: Callable[[Storage], Bench], storage: Storage) -> Bench:
    return new_bench(storage)


@pytest.fixture
def mounted_bench(new_bench: Callable[[Storage], Bench], mount: Mount) -> Bench:
    """A bench on the mount alone, for what a plain directory cannot do."""
    return new_bench(OnMount(mount))


@pytest.fixture
def own_mount(tmp_path: Path) -> Iterator[Mount]:
    """A mount that one test may stop, damage and start again."""
    with Mount(tmp_path / "own") as mount:
        yield mount


LOG_TAIL = 6000


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the daemon had to say."""
    report = yield
    used: dict[str, object] = getattr(item, "funcargs", {})
    storage = used.get("storage")
    mounts = [
        used.get("mount"),
        used.get("own_mount"),
        storage.mount if isinstance(storage, OnMount) else None,
    ]
    for mount in mounts:
        if report.failed and isinstance(mount, Mount):
            report.sections.append(("daemon.log", mount.log()[-LOG_TAIL:]))
    return report
