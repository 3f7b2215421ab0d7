"""Between repositories: push, clone, fetch, pull, over http and over file remotes."""

import pytest

from .bench import KIB, MIB, Bench, Native, oid_of

kinds = pytest.mark.parametrize("kind", ["http", "file"])


@kinds
def test_what_is_pushed_is_on_the_remote_and_comes_back_in_a_clone(bench: Bench, kind: str) -> None:
    remote = bench.remote(kind)
    repo = bench.init("repo", remote=remote)
    files = {"a.bin": bench.blob(), "b.bin": bench.blob(5 * MIB), "one.bin": b"1", "none.bin": b""}
    oids = repo.commit(files)
    repo.git("push", "-q", "origin", "main")
    assert bench.on_server(remote) == {oids[name] for name in files if files[name]}
    elsewhere = bench.clone(remote, "elsewhere", storage=Native())
    assert {name: elsewhere.read(name) for name in files} == files


@kinds
def test_a_clone_from_another_machine_has_every_file_and_a_clean_status(bench: Bench, kind: str) -> None:
    remote = bench.remote(kind)
    files = {f"{n}.bin": bench.blob(n * 7 * KIB) for n in range(1, 21)} | {"big.bin": bench.blob(9 * MIB)}
    _, oids = bench.upstream(files, remote)
    clone = bench.clone(remote, "clone")
    assert {name: clone.read(name) for name in files} == files
    assert clone.objects() == set(oids.values())
    assert clone.status() == ""
    assert (clone.left_in("tmp"), clone.left_in("incomplete")) == ([], [])
    clone.git("lfs", "fsck")


@kinds
def test_pull_and_fetch_follow_what_a_colleague_pushes(bench: Bench, kind: str) -> None:
    remote = bench.remote(kind)
    colleague, _ = bench.upstream({"a.bin": bench.blob()}, remote)
    clone = bench.clone(remote, "clone")
    second, third = bench.blob(MIB), bench.blob()
    new = colleague.commit({"a.bin": second, "b.bin": third})
    colleague.git("push", "-q")
    clone.git("lfs", "fetch", "origin", "main")
    clone.git("pull", "-q")
    assert (clone.read("a.bin"), clone.read("b.bin")) == (second, third)
    assert set(new.values()) <= clone.objects()


@kinds
def test_a_push_back_reaches_the_colleague(bench: Bench, kind: str) -> None:
    remote = bench.remote(kind)
    colleague, _ = bench.upstream({"a.bin": bench.blob()}, remote)
    clone, content = bench.clone(remote, "clone"), bench.blob(3 * MIB)
    clone.commit({"a.bin": content})
    clone.git("push", "-q")
    colleague.git("pull", "-q")
    assert colleague.read("a.bin") == content


def test_a_second_clone_of_a_shared_store_downloads_nothing(bench: Bench) -> None:
    remote = bench.remote("http")
    _, oids = bench.upstream({"a.bin": bench.blob(), "b.bin": bench.blob(2 * MIB)}, remote)
    first, second = bench.clone(remote, "first"), bench.clone(remote, "second")
    for name, oid in oids.items():
        assert first.read(name) == second.read(name)
        assert bench.server.downloads(oid) == (1 if bench.shares else 2)
    assert second.objects() == set(oids.values())


def test_the_clone_that_added_an_object_saves_the_next_one_its_download(bench: Bench) -> None:
    remote = bench.remote("http")
    author = bench.init("author", remote=remote)
    content = bench.blob(MIB)
    oid = author.commit({"a.bin": content})["a.bin"]
    author.git("push", "-q", "origin", "main")
    reader = bench.clone(remote, "reader")
    assert reader.read("a.bin") == content
    assert bench.server.downloads(oid) == (0 if bench.shares else 1)


def test_an_object_is_uploaded_once_whoever_pushes_it(bench: Bench) -> None:
    remote, content = bench.remote("http"), bench.blob()
    first = bench.init("first", remote=remote)
    oid = first.commit({"a.bin": content})["a.bin"]
    first.git("push", "-q", "origin", "main")
    second = bench.clone(remote, "second")
    second.commit({"copy.bin": content})
    second.git("push", "-q", "origin", "main")
    assert bench.server.uploads(oid) == 1
    assert bench.server.repository(remote.name).verified == [oid]


@kinds
def test_a_clone_without_smudge_has_pointers_until_it_pulls(bench: Bench, kind: str) -> None:
    remote, content = bench.remote(kind), bench.blob(MIB)
    _, oids = bench.upstream({"a.bin": content, "d/b.bin": content}, remote)
    clone, done = bench.try_clone(remote, "clone", env={"GIT_LFS_SKIP_SMUDGE": "1"})
    assert done.status == 0
    assert clone.read("a.bin").startswith(b"version https://git-lfs")
    assert clone.git("lfs", "ls-files").startswith(f"{oids['a.bin'][:10]} - a.bin")
    clone.git("lfs", "pull")
    assert (clone.read("a.bin"), clone.read("d/b.bin")) == (content, content)
    assert clone.git("lfs", "ls-files").startswith(f"{oids['a.bin'][:10]} * a.bin")
    assert clone.status() == ""


@kinds
def test_fetch_then_lfs_checkout_fills_the_work_tree(bench: Bench, kind: str) -> None:
    remote, content = bench.remote(kind), bench.blob(3 * MIB)
    bench.upstream({"a.bin": content, "b.bin": bench.blob()}, remote)
    clone, done = bench.try_clone(remote, "clone", env={"GIT_LFS_SKIP_SMUDGE": "1"})
    assert done.status == 0
    clone.git("lfs", "fetch")
    assert clone.read("a.bin").startswith(b"version https://git-lfs")
    clone.git("lfs", "checkout", "a.bin")
    assert clone.read("a.bin") == content
    assert clone.read("b.bin").startswith(b"version https://git-lfs")


def test_include_and_exclude_pull_only_what_they_name(bench: Bench) -> None:
    remote = bench.remote("http")
    _, oids = bench.upstream({"a.bin": bench.blob(), "b.bin": bench.blob(), "c.bin": bench.blob()}, remote)
    clone, _ = bench.try_clone(remote, "clone", env={"GIT_LFS_SKIP_SMUDGE": "1"})
    clone.git("lfs", "pull", "--include", "*.bin", "--exclude", "b.bin")
    assert clone.objects() == {oids["a.bin"], oids["c.bin"]}
    assert clone.read("b.bin").startswith(b"version https://git-lfs")


def test_fetch_all_brings_every_version_and_push_all_gives_them_on(bench: Bench) -> None:
    remote, other = bench.remote("http"), bench.remote("http", "other")
    colleague, first = bench.upstream({"a.bin": bench.blob()}, remote)
    second = colleague.commit({"a.bin": bench.blob()})
    colleague.git("push", "-q")
    clone = bench.clone(remote, "clone")
    clone.git("lfs", "fetch", "--all")
    every = {first["a.bin"], second["a.bin"]}
    assert clone.objects() == every
    clone.git("remote", "add", "other", other.url)
    clone.git("lfs", "push", "--all", "other")
    assert bench.on_server(other) == every


def test_push_by_object_id_and_dry_runs_do_only_what_they_say(bench: Bench) -> None:
    remote = bench.remote("http")
    repo = bench.init("repo", remote=remote)
    oids = repo.commit({"a.bin": bench.blob(), "b.bin": bench.blob()})
    assert f"push {oids['a.bin']} => a.bin" in repo.git("lfs", "push", "--dry-run", "origin", "main")
    assert bench.on_server(remote) == set()
    repo.git("lfs", "push", "--object-id", "origin", oids["b.bin"])
    assert bench.on_server(remote) == {oids["b.bin"]}


def test_lfs_clone_is_a_clone(bench: Bench) -> None:
    remote, content = bench.remote("http"), bench.blob()
    bench.upstream({"a.bin": content}, remote)
    outer = bench.init("outer")
    inner = bench.storage.root(f"{bench.label}-inner")
    options = ["-c", f"lfs.storage={inner}"] if inner else []
    outer.git("lfs", "clone", "-q", *options, remote.url, "inner")
    assert outer.read("inner/a.bin") == content


def test_a_push_without_the_object_says_which_is_missing_and_pushes_no_ref(bench: Bench) -> None:
    remote, other = bench.remote("http"), bench.remote("http", "other")
    _, oids = bench.upstream({"a.bin": bench.blob()}, remote)
    clone, _ = bench.try_clone(remote, "clone", env={"GIT_LFS_SKIP_SMUDGE": "1"})
    clone.git("remote", "add", "other", other.url)
    clone.git("remote", "remove", "origin")
    said = clone.fails("push", "other", "main")
    assert oids["a.bin"] in said
    assert "missing" in said
    assert clone.git("ls-remote", "other") == ""


def test_a_file_the_server_has_lost_is_named_and_the_others_arrive(bench: Bench) -> None:
    remote, content = bench.remote("http"), bench.blob()
    _, oids = bench.upstream({"a.bin": content, "lost.bin": bench.blob()}, remote)
    del bench.server.repository(remote.name).objects[oids["lost.bin"]]
    clone, _ = bench.try_clone(remote, "clone", env={"GIT_LFS_SKIP_SMUDGE": "1"})
    said = clone.fails("lfs", "pull")
    assert oids["lost.bin"] in said
    assert clone.objects() == {oids["a.bin"]}
    clone.run("lfs", "checkout")
    assert clone.read("a.bin") == content


def test_lfs_url_in_lfsconfig_is_followed(bench: Bench) -> None:
    remote, lfs_only, content = bench.remote("file"), bench.remote("http", "lfs-only"), bench.blob()
    repo = bench.init("repo", remote=remote)
    repo.git("config", "-f", ".lfsconfig", "lfs.url", f"{lfs_only.url}/info/lfs")
    repo.commit({"a.bin": content})
    repo.git("push", "-q", "origin", "main")
    assert bench.on_server(lfs_only) == {oid_of(content)}
    assert bench.clone(remote, "clone").read("a.bin") == content
