"""Any sequence of calls on the public Store leaves what plain dicts would: objects, references, names, damage."""

import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from store_thread import StoreThread

from lfsfs import ListQuery, Oid, Store, open_store
from lfsfs.errors import Corrupt, HashMismatch, InUse, LfsfsError, NotFound
from lfsfs.store import names, references
from lfsfs.store.staged_file import MEMORY_BYTES
from lfsfs.store.store import Durability
from lfsfs.store.transfers import Upload

T = TypeVar("T")


class Content(bytes):
    """Bytes whose representation a person can read in a counterexample."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes, {Oid.of(self)[:6]}>"


CONTENTS = [
    Content(content)
    for content in (
        b"",
        b"x",
        b"plain text\n",
        bytes(range(256)) * 20,
        b"\x89PNG\r\n\x1a\n" + bytes(2000),
        bytes((1 << 20) + 7),
        b"ab" * (1 << 20),
    )
]
CONTENT = st.sampled_from(CONTENTS)
REPOSITORY = st.sampled_from(["one", "two", "träum"])
NAME = st.sampled_from([b"a.bin", b"B.bin", b"\xff"])


@dataclass
class Known:
    """What the index has to say of an object, and what truly lies on the disk (None: nothing)."""

    size: int
    corrupt: bool
    disk: bytes | None


class StoreModel(RuleBasedStateMachine):
    """Compares a store, call by call, with dicts."""

    @initialize()
    def open(self) -> None:
        memory = Path("/dev/shm")  # where there is such a place: nothing here is about what a disk keeps
        where = memory if os.access(memory, os.W_OK) else None
        self.directory = Path(tempfile.mkdtemp(prefix="lfsfs-model-", dir=where))
        self.path = self.directory / "store"
        self.open_store = StoreThread(partial(open_store, self.path, create=True, durability="sync"))
        self.objects: dict[Oid, Known] = {}
        self.repositories: dict[str, set[Oid]] = {}
        self.names: dict[bytes, Oid] = {}
        self.uploads: list[tuple[Upload, bytes, str | None]] = []
        self._add_root()

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            self.open_store.close()
            shutil.rmtree(self.directory)

    @property
    def store(self) -> Store:
        return self.open_store.store

    def run(self, call: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        return self.open_store.run(call, *arguments)

    def _add_root(self) -> None:
        self.run(self.store.index.update, lambda tx: names.make_root(tx, 0, 0))

    def _stored(self, content: bytes, repository: str | None) -> None:
        """What a commit of this content does to the model."""
        oid = Oid.of(content)
        known = self.objects.get(oid)
        looks_whole = known and not known.corrupt and known.disk is not None and len(known.disk) == known.size
        if not looks_whole:
            self.objects[oid] = Known(len(content), corrupt=False, disk=content)
        if repository is not None:
            self.repositories[repository].add(oid)

    # In.

    @rule(content=CONTENT, repository=st.none() | REPOSITORY, by_path=st.booleans())
    def put(self, content: bytes, repository: str | None, by_path: bool) -> None:
        source = self.directory / "source"
        source.write_bytes(content)

        async def put() -> int:
            row = await self.store.put(source if by_path else content, repository=repository)
            return row.size

        if repository is not None and repository not in self.repositories:
            with pytest.raises(NotFound):
                self.run(put)
            return
        assert self.run(put) == len(content)
        self._stored(content, repository)

    @rule(content=CONTENT, other=CONTENT)
    def put_under_a_wrong_oid(self, content: bytes, other: bytes) -> None:
        if content != other:
            with pytest.raises(HashMismatch):
                self.run(lambda: self.store.put(content, oid=Oid.of(other)))

    @rule(contents=st.lists(CONTENT, max_size=5))
    def put_many(self, contents: list[bytes]) -> None:
        rows = self.run(self.store.put_many, contents)
        assert [getattr(row, "oid", row) for row in rows] == [Oid.of(content) for content in contents]
        for content in contents:
            self._stored(content, None)

    @rule(content=CONTENT, repository=st.none() | REPOSITORY, split=st.integers(0, 3000))
    def begin_upload(self, content: bytes, repository: str | None, split: int) -> None:
        if repository is not None and repository not in self.repositories:
            return

        async def begin() -> Upload:
            upload = self.store.create_upload(repository=repository)
            await upload.write(content[:split])
            await upload.write(content[split:])
            return upload

        self.uploads.append((self.run(begin), content, repository))

    @precondition(lambda self: self.uploads)
    @rule(finalize=st.booleans())
    def end_upload(self, finalize: bool) -> None:
        upload, content, repository = self.uploads.pop()
        if not finalize:
            self.run(upload.abort)
        elif repository is not None and repository not in self.repositories:
            with pytest.raises(NotFound):
                self.run(upload.finalize)
        else:
            assert self.run(upload.finalize).oid == Oid.of(content)
            self._stored(content, repository)

    # References and names.

    @rule(name=REPOSITORY)
    def add_repository(self, name: str) -> None:
        self.run(self.store.add_repository, name)
        self.repositories.setdefault(name, set())

    @rule(name=REPOSITORY)
    def remove_repository(self, name: str) -> None:
        if self.repositories.pop(name, None) is None:
            with pytest.raises(NotFound):
                self.run(self.store.remove_repository, name)
        else:
            self.run(self.store.remove_repository, name)

    @rule(content=CONTENT, name=REPOSITORY)
    def look_up_through_a_repository(self, content: bytes, name: str) -> None:
        oid = Oid.of(content)
        if name in self.repositories and oid in self.objects:
            self.store.references.add_soon(self.store.repository(name).id, oid)
            self.repositories[name].add(oid)

    @rule(content=CONTENT, name=REPOSITORY)
    def look_up_through_a_repository_that_is_removed_meanwhile(self, content: bytes, name: str) -> None:
        if name in self.repositories and Oid.of(content) in self.objects:
            number = self.store.repository(name).id
            self.remove_repository(name)
            self.store.references.add_soon(number, Oid.of(content))

    @rule(content=CONTENT, name=REPOSITORY)
    def drop_a_reference(self, content: bytes, name: str) -> None:
        if name not in self.repositories:
            return
        oid, number = Oid.of(content), self.store.repository(name).id
        if oid in self.repositories[name]:
            self.store.references.drop_soon(number, oid)
            self.repositories[name].discard(oid)
        else:
            with pytest.raises(NotFound):
                self.store.references.drop_soon(number, oid)

    @rule(content=CONTENT, name=NAME)
    def give_a_name(self, content: bytes, name: bytes) -> None:
        oid = Oid.of(content)
        if oid not in self.objects:
            return

        def enter(tx: Any) -> None:
            inode = names.new_inode(names.reserve(tx, 1), "file", 0o644, 0, 0)
            found = inode._replace(oid=oid)
            names.enter(tx, names.ROOT, name, found)

        self.run(self.store.index.update, enter)
        self.names[name] = oid

    @precondition(lambda self: self.names)
    @rule(choice=st.integers(0, 9))
    def take_a_name_away(self, choice: int) -> None:
        name = sorted(self.names)[choice % len(self.names)]
        self.run(self.store.index.update, lambda tx: names.unlink(tx, names.ROOT, name))
        del self.names[name]

    # Out.

    @rule(content=CONTENT, force=st.booleans())
    def delete(self, content: bytes, force: bool) -> None:
        oid = Oid.of(content)

        def delete() -> None:
            self.run(lambda: self.store.delete(oid, force=force))

        if oid not in self.objects:
            with pytest.raises(NotFound):
                delete()
        elif not force and self._referred(oid):
            with pytest.raises(InUse):
                delete()
        else:
            delete()
            del self.objects[oid]
            assert not (self.path / "objects" / oid.path()).exists()

    def _referred(self, oid: Oid) -> bool:
        return oid in self.names.values() or any(oid in held for held in self.repositories.values())

    @rule(content=CONTENT)
    def read(self, content: bytes) -> None:
        oid, target = Oid.of(content), self.directory / "target"
        known = self.objects.get(oid)
        try:
            self.run(self.store.get, oid, target)
        except LfsfsError as error:
            assert not target.exists()
            assert known is None or known.corrupt or known.disk != content
            assert isinstance(error, NotFound if known is None else (Corrupt, NotFound))
        else:
            assert known is not None
            assert not known.corrupt
            assert target.read_bytes() == content, "served bytes that are not the object's"
            target.unlink()
            assert content == b"" or (known.disk or b"").startswith(content)

    @rule(content=CONTENT, offset=st.integers(0, 3000), size=st.integers(0, 1 << 21))
    def read_a_range(self, content: bytes, offset: int, size: int) -> None:
        async def read() -> bytes:
            async with await self.store.open(Oid.of(content)) as reader:
                return await reader.read(offset, size)

        try:
            assert self.run(read) == content[offset : offset + size]
        except (Corrupt, NotFound):
            known = self.objects.get(Oid.of(content))
            assert known is None or known.corrupt or known.disk != content

    @rule(content=CONTENT)
    def check(self, content: bytes) -> None:
        known = self.objects.get(Oid.of(content))
        assert self.run(self.store.check, Oid.of(content)) == (known is not None and known.disk == content)
        if known is not None:
            known.corrupt = known.disk != content

    # What happens to a store.

    @precondition(lambda self: self.objects)
    @rule(choice=st.integers(0, 99), how=st.sampled_from(["flip", "cut", "add", "remove"]))
    def damage(self, choice: int, how: str) -> None:
        oid = sorted(self.objects)[choice % len(self.objects)]
        known = self.objects[oid]
        file = self.path / "objects" / oid.path()
        if known.disk is None or (not known.disk and how in ("flip", "cut")):
            return
        match how:
            case "flip":
                known.disk = bytes([known.disk[0] ^ 1]) + known.disk[1:]
            case "cut":
                known.disk = known.disk[:-1]
            case "add":
                known.disk += b"+"
            case _:
                known.disk = None
        if known.disk is None:
            file.unlink()
        else:
            file.write_bytes(known.disk)

    @rule(durability=st.sampled_from(["sync", "fast"]))
    def open_again(self, durability: Durability) -> None:
        self._close()
        self.open_store = StoreThread(partial(open_store, self.path, create=True, durability=durability))

    @rule()
    def lose_the_index(self) -> None:
        self._close()
        shutil.rmtree(self.path / "index")
        self.open_store = StoreThread(partial(open_store, self.path, create=True, durability="sync"))
        self.objects = {
            oid: Known(len(known.disk), corrupt=Oid.of(known.disk) != oid, disk=known.disk)
            for oid, known in self.objects.items()
            if known.disk is not None
        }
        self.repositories = {name: set() for name in self.repositories}
        self.names = {}
        self._add_root()

    def _close(self) -> None:
        self.uploads.clear()  # what is not finalized is not there
        self.open_store.close()

    # What holds at any time.

    @invariant()
    def the_listing_is_the_model(self) -> None:
        if not hasattr(self, "directory"):
            return
        page = self.run(self.store.list, ListQuery())
        assert {row.oid: (row.size, row.state == "corrupt") for row in page.objects} == {
            oid: (known.size, known.corrupt) for oid, known in self.objects.items()
        }
        assert [row.oid for row in page.objects] == sorted(self.objects)

    @rule(sort=st.sampled_from(["oid", "created", "accessed", "size"]), descending=st.booleans())
    def list_page_by_page(self, sort: Any, descending: bool) -> None:
        found, cursor = [], None
        while True:
            query = ListQuery(sort=sort, descending=descending, limit=2, cursor=cursor)
            page = self.run(self.store.list, query)
            found += [(getattr(row, sort), row.oid) for row in page.objects]
            cursor = page.cursor
            if cursor is None:
                break
        assert found == sorted(found, reverse=descending)
        assert {oid for _, oid in found} == set(self.objects)

    @rule()
    def totals(self) -> None:
        usage = self.run(self.store.usage)
        assert (usage.objects, usage.bytes) == (
            len(self.objects),
            sum(known.size for known in self.objects.values()),
        )
        assert (usage.names, usage.repositories) == (len(self.names), len(self.repositories))

    @rule()
    def references_are_the_model(self) -> None:
        assert {found.name for found in self.run(self.store.repositories)} == set(self.repositories)
        for name, held in self.repositories.items():
            number = self.store.repository(name).id
            assert self.store.references.oids(number, "") == sorted(held)
            assert self.store.references.directories(number, "") == sorted({oid[:2] for oid in held})
            self.run(self.store.index.flush)
            assert self.store.index.view(lambda tx, number=number: references.count(tx, number)) == len(held)
            rows = self.run(self.store.list, ListQuery(repository=name)).objects
            assert {row.oid for row in rows} == held & set(self.objects)

    @rule(content=CONTENT)
    def everything_about_one(self, content: bytes) -> None:
        oid = Oid.of(content)
        assert self.run(self.store.exists, oid) == (oid in self.objects)
        by_name = sorted(name for name, held in self.names.items() if held == oid)
        assert self.run(self.store.why, oid) == [
            *(f"incoming/{name.decode('utf-8', 'surrogateescape')} names it" for name in by_name),
            *(f"repos/{name} refers to it" for name in sorted(self.repositories) if oid in self.repositories[name]),
        ]  # fmt: skip
        found = {match.stat.oid for match in self.run(self.store.search, oid[:8])}
        assert found == {oid} & set(self.objects)
        for name in by_name:
            matches = {
                match.stat.oid
                for match in self.run(self.store.search, name.decode("utf-8", "surrogateescape"))
            }
            assert (oid in matches) == (oid in self.objects)

    @invariant()
    def staging_holds_the_large_open_uploads_and_nothing_else(self) -> None:
        if hasattr(self, "directory"):
            staged = [path for path in (self.path / "staging").rglob("*") if path.is_file()]
            on_disk = [content for _, content, _ in self.uploads if len(content) > MEMORY_BYTES]
            assert len([path for path in staged if path.name != "lock"]) == len(on_disk)


StoreModel.TestCase.settings = settings(max_examples=settings().max_examples // 2, stateful_step_count=40)
TestStoreModel = StoreModel.TestCase
TestStoreModel.pytestmark = [pytest.mark.slow]
