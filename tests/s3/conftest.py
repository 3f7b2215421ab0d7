"""Servers that all tests of a session share, and a tier in each."""

from collections.abc import Iterator

import pytest

from .servers import Server, ceph, moto


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with moto(tmp_path_factory.mktemp("moto") / "log") as server:
        yield server


@pytest.fixture(scope="session")
def rgw_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with ceph(tmp_path_factory.mktemp("ceph")) as server:
        yield server
