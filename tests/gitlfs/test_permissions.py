"""The modes of object files, by umask and core.sharedRepository."""

import stat

import pytest

from .bench import Bench

UMASK = 0o027
MODES = {  # GIT_LFS: the file's mode is 0666 less the mask that core.sharedRepository asks for
    "umask": 0o640,
    "group": 0o660,
    "all": 0o664,
    "0640": 0o640,
    "0660": 0o660,
    "0600": 0o600,
}

shared = pytest.mark.parametrize(("setting", "mode"), MODES.items(), ids=MODES)


@shared
def test_an_added_object_has_the_mode_that_shared_repository_asks_for(
    bench: Bench, setting: str, mode: int
) -> None:
    repo = bench.init("repo")
    repo.config("core.sharedRepository", setting)
    oid = repo.write("a.bin", content := bench.blob())
    repo.git("add", "a.bin", umask=UMASK)
    assert oct(repo.mode(oid)) == oct(mode)
    with bench.storage.at_rest():
        pass
    assert oct(repo.mode(oid)) == oct(mode)
    assert repo.object(oid).read_bytes() == content


@shared
def test_a_downloaded_object_has_it_too(bench: Bench, setting: str, mode: int) -> None:
    remote = bench.remote()
    _, oids = bench.upstream({"a.bin": bench.blob()}, remote)
    clone, _ = bench.try_clone(remote, "clone", env={"GIT_LFS_SKIP_SMUDGE": "1"})
    clone.config("core.sharedRepository", setting)
    clone.git("lfs", "fetch", umask=UMASK)
    assert oct(clone.mode(oids["a.bin"])) == oct(mode)


def test_an_object_without_any_setting_is_readable_as_the_umask_says(bench: Bench) -> None:
    repo = bench.init("repo")
    oid = repo.write("a.bin", bench.blob())
    repo.git("add", "a.bin", umask=0o022)
    assert oct(repo.mode(oid)) == oct(0o644)
    assert stat.S_ISREG(repo.object(oid).stat().st_mode)
