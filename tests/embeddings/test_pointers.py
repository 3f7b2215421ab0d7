"""A clone whose work tree holds the pointers of git-lfs: the API reads right through them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from gitlfs.bench import git_environment
from gitlfs.lfs_server import LfsServer

import lfsfs
from lfsfs.embeddings import codec, fetching
from lfsfs.errors import Corrupt, LfsfsError, NotFound, Unavailable

from .conftest import Batch, made

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
COUNT = 40


@dataclass
class Elsewhere:
    """A clone on a machine whose store has not got the vectors: `paths` are pointers, as git-lfs leaves them."""

    path: Path
    paths: list[str]
    vectors: Batch
    server: LfsServer
    calls: Path
    """What git was called with, a line each."""

    def fetches(self) -> int:
        return sum(" lfs fetch " in line for line in self.calls.read_text().splitlines())

    def git(self, *arguments: str) -> None:
        subprocess.run(["git", "-C", self.path, *arguments], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LfsServer, dict[str, str], Batch]]:
    """A server to which somebody has pushed the npz files of the vectors; and the environment of git."""
    folder = tmp_path_factory.mktemp("origin")
    environment, (hashes, matrix) = git_environment(folder / "home"), made(COUNT)
    (folder / "remotes").mkdir()

    def run(*command: str | Path) -> None:
        subprocess.run(command, check=True, capture_output=True, timeout=60, env=environment)

    with LfsServer(folder / "remotes", environment) as server:
        bare, work = folder / "remotes" / "r.git", folder / "work"
        run("git", "init", "-q", "--bare", bare)
        run("git", "-C", bare, "config", "http.receivepack", "true")
        run("git", "clone", "-q", server.url("r"), work)
        (work / "embeddings").mkdir()
        for content_hash, row in zip(hashes, matrix, strict=True):
            (work / "embeddings" / f"{content_hash}.npz").write_bytes(codec.render(row))
        run("git", "-C", work, "lfs", "track", "*.npz")
        run("git", "-C", work, "add", ".")
        run("git", "-C", work, "commit", "-qm", "vectors")
        run("git", "-C", work, "push", "-q")
        yield server, environment, (hashes, matrix)


@pytest.fixture
def elsewhere(
    tmp_path: Path, origin: tuple[LfsServer, dict[str, str], Batch], monkeypatch: pytest.MonkeyPatch
) -> Elsewhere:
    """Git has the environment of the server in this process too, and each of its calls is noted."""
    server, environment, (hashes, matrix) = origin
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    real, folder, path = shutil.which("git"), tmp_path / "bin", tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "git").write_text(f'#!/bin/sh\necho "$*" >> {folder}/calls\nexec {real} "$@"\n')
    (folder / "git").chmod(0o755)
    (folder / "calls").touch()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(fetching, "FIRST_PAUSE_SECONDS", 0.05)
    subprocess.run(
        ["git", "clone", "-q", server.url("r"), path], check=True, capture_output=True, timeout=60,
        env=environment | {"GIT_LFS_SKIP_SMUDGE": "1"},
    )  # fmt: skip
    server.requests.clear()
    paths = [str(path / "embeddings" / f"{content_hash}.npz") for content_hash in hashes]
    return Elsewhere(path, paths, (hashes, matrix), server, folder / "calls")


@pytest.fixture
def client(tmp_path: Path) -> Iterator[lfsfs.Client]:
    with lfsfs.connect(tmp_path / "store", create=True, durability="fast") as client:
        yield client


def test_what_is_missing_is_fetched_at_once_and_nothing_else(
    elsewhere: Elsewhere, client: lfsfs.Client
) -> None:
    found = client.embeddings.read_embeddings_batch(elsewhere.paths[:30])
    assert list(found) and not found.missing and not found.corrupt
    for path, row in zip(elsewhere.paths[:30], elsewhere.vectors[1], strict=False):
        assert found[path].tobytes() == row.tobytes()
    assert elsewhere.fetches() == 1
    assert len(elsewhere.server.requests) == 30
    again = client.embeddings.read_embedding(elsewhere.paths[3])
    assert again.tobytes() == elsewhere.vectors[1][3].tobytes()
    assert elsewhere.fetches() == 1, "git-lfs has it by now"


def test_what_the_store_has_is_not_fetched(elsewhere: Elsewhere, client: lfsfs.Client) -> None:
    hashes, matrix = elsewhere.vectors
    client.embeddings.collection("other").write_embeddings_batch((hashes[:5], matrix[:5]))
    client.embeddings.pack()
    for row in matrix[:5]:
        client.call(lambda store, row=row: store.put(codec.render(row)))  # type: ignore[misc]
    client.call(lambda store: store.put(codec.render(matrix[5])))
    found = client.embeddings.read_embeddings_batch(elsewhere.paths[:6])
    assert [found[path].tobytes() for path in elsewhere.paths[:6]] == [row.tobytes() for row in matrix[:6]]
    assert elsewhere.fetches() == 0
    assert elsewhere.server.requests == []


def test_a_fetch_that_fails_is_tried_again(elsewhere: Elsewhere, client: lfsfs.Client) -> None:
    git = elsewhere.calls.parent / "git"
    once = f'case "$*" in *" lfs fetch "*) test -e {git}.failed || {{ touch {git}.failed; exit 1; }};; esac\n'
    git.write_text(git.read_text().replace("exec", once + "exec"))
    found = client.embeddings.read_embeddings_batch(elsewhere.paths[:3])
    assert found[elsewhere.paths[2]].tobytes() == elsewhere.vectors[1][2].tobytes()
    assert elsewhere.fetches() == 2


def test_what_nobody_has_is_told_and_the_rest_is_read(elsewhere: Elsewhere, client: lfsfs.Client) -> None:
    lost = Path(elsewhere.paths[1])
    oid = next(line for line in lost.read_text().splitlines() if line.startswith("oid"))[-64:]
    objects = elsewhere.server.repository("r").objects
    kept = objects.pop(oid)
    found = client.embeddings.read_embeddings_batch(elsewhere.paths[:3])
    objects[oid] = kept
    assert found.missing == [str(lost)]
    assert sorted(found) == sorted([elsewhere.paths[0], elsewhere.paths[2]])
    with pytest.raises(Unavailable, match="git lfs fetch did not bring"):
        found[str(lost)]


def test_without_git_lfs_the_error_says_what_to_install(
    elsewhere: Elsewhere, client: lfsfs.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "without"
    folder.mkdir()
    (folder / "git").symlink_to(str(shutil.which("git", path="/usr/bin:/usr/local/bin")))
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(LfsfsError, match=r"git-lfs is not installed.*install the package git-lfs"):
        client.embeddings.read_embedding(elsewhere.paths[0])


def test_a_pointer_that_lies_in_no_clone_names_the_folder(client: lfsfs.Client, tmp_path: Path) -> None:
    path = tmp_path / f"{'ab' * 32}.npz"
    path.write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'cd' * 32}\nsize 2262\n", newline="\n"
    )
    with pytest.raises(NotFound, match="in no clone"):
        client.embeddings.read_embedding(str(path))


def test_files_that_git_lfs_has_checked_out_are_read_as_they_are(
    elsewhere: Elsewhere, client: lfsfs.Client
) -> None:
    elsewhere.git("lfs", "pull")
    damaged = Path(elsewhere.paths[1])
    damaged.write_bytes(damaged.read_bytes()[:-9])
    found = client.embeddings.read_embeddings_batch(elsewhere.paths[:3])
    assert found[elsewhere.paths[0]].tobytes() == elsewhere.vectors[1][0].tobytes()
    assert found.missing == []
    assert list(found.corrupt) == [str(damaged)]


def test_a_damaged_object_of_the_clone_is_told(elsewhere: Elsewhere, client: lfsfs.Client) -> None:
    elsewhere.git("lfs", "fetch")
    objects = [file for file in (elsewhere.path / ".git/lfs/objects").rglob("*") if file.is_file()]
    for file in objects:
        file.chmod(0o644)
        file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises(Corrupt, match="git lfs fsck"):
        client.embeddings.read_embedding(elsewhere.paths[0])


def test_a_content_hash_and_a_path_that_is_nowhere_are_what_they_were(client: lfsfs.Client) -> None:
    hashes, matrix = made(2)
    written = client.embeddings.write_embeddings_batch((hashes, matrix))
    found = client.embeddings.read_embeddings_batch([hashes[0], written[1], f"/nowhere/{hashes[1]}.npz"])
    assert np.array_equal(found[written[1]], matrix[1])
    assert len(found) == 3
