"""objects/aa/bb/<oid>: every object, read-only; and the commit, which is a rename or a link into it.

The two levels of directories are always there and list what is not empty. Under repos/NAME they list what the
repository refers to; a lookup of another oid that the store has succeeds and adds the reference (`open` sharing).
"""

import errno

from lfsfs.errors import HashMismatch, InvalidOid, NotFound, Unavailable
from lfsfs.fuse import RENAME_NOREPLACE
from lfsfs.mount.nodes import Absent, Directory, Key, Node, Opened, Tree, error
from lfsfs.mount.object_file import ObjectNode, object_node
from lfsfs.mount.workspace import WorkspaceDirectory, WorkspaceFile
from lfsfs.oid import Oid
from lfsfs.store import catalog, references, rendered
from lfsfs.store.index import Tx
from lfsfs.store.references import next_digits

SHARED = 0
"""The repository number of the mountpoint itself, the root that lists everything."""
_LEVELS = 2


class ObjectsDirectory(Directory):
    """objects/ of one root, and the two levels below it: `prefix` is "", "aa" or "aabb"."""

    def __init__(self, tree: Tree, repository: int, prefix: str) -> None:
        super().__init__(tree, ("objects", repository, prefix))
        self.repository = repository
        self.prefix = prefix

    @property
    def _is_leaf(self) -> bool:
        return len(self.prefix) == 2 * _LEVELS

    async def lookup(self, name: bytes) -> Node | None:
        if name == b".git":
            return None  # git-lfs looks for it in every directory that it walks
        if self._is_leaf:
            oid = self._oid(name, NotFound)
            try:
                return await self._find_object(oid)
            except NotFound as missing:
                raise Absent(str(missing), self.tree.absences.tell(oid, self.number)) from missing
        text = name.decode("ascii", "replace")
        if len(text) != 2 or text.strip("0123456789abcdef"):
            raise NotFound(f"no {name!r} in objects/")
        return self.child(name, (text,))

    async def _find_object(self, oid: Oid) -> ObjectNode:
        """The object; one that is not known here is asked for at the remote tier, if there is one.

        While that does not answer, what is not known here is absent: git-lfs looks for an object before it makes it,
        and must be able to work on.
        """
        store = self.tree.store
        if self._may_come_from_elsewhere(oid) and store.lookup(oid) is None and not store.knows_all_objects:
            try:
                await store.find_row(oid)
            except Unavailable as away:
                raise NotFound(
                    f"no object {oid} is known here, and the remote tier does not answer"
                ) from away
        return await self._lookup_object(oid)

    def _may_come_from_elsewhere(self, oid: Oid) -> bool:
        return oid not in self.tree.withdrawn and (
            self.repository == SHARED or self.tree.options.sharing == "open"
        )

    async def _lookup_object(self, oid: Oid) -> ObjectNode:
        store, options = self.tree.store, self.tree.options
        if self.repository != SHARED and not store.references.has(self.repository, oid):
            if options.sharing == "isolated" or oid in self.tree.withdrawn or store.lookup(oid) is None:
                raise NotFound(f"no object {oid} here")
            if not options.read_only:
                await store.references.look_up(self.repository, oid)
        node = object_node(self.tree, oid)
        if node is None:
            raise NotFound(f"no object {oid}")
        return node

    def _oid(self, name: bytes, otherwise: type[Exception]) -> Oid:
        try:
            oid = Oid(name.decode("ascii", "replace"))
        except InvalidOid as invalid:
            raise otherwise(str(invalid)) from invalid
        if not oid.startswith(self.prefix):
            raise otherwise(f"{oid} does not belong in objects/{self.prefix[:2]}/{self.prefix[2:]}")
        return oid

    async def entries(self) -> list[tuple[bytes, Key]]:
        store = self.tree.store
        if self._is_leaf:
            return [(oid.encode(), (oid,)) for oid in self._oids()]
        if self.repository != SHARED:
            found = store.references.directories(self.repository, self.prefix)
        else:
            found = store.index.view(self._digits)
        return [(text.encode(), (text,)) for text in found]

    def _digits(self, tx: Tx) -> list[str]:
        stored = next_digits(tx, "objects", b"", self.prefix)
        return sorted({*stored, *next_digits(tx, "vectors", rendered.PREFIX, self.prefix)})

    def _oids(self) -> list[Oid]:
        store = self.tree.store
        if self.repository != SHARED:
            return store.references.oids(self.repository, self.prefix)
        start = bytes.fromhex(self.prefix)
        stored, made = store.index.view(
            lambda tx: (
                [
                    Oid.from_bytes(key)
                    for key, value in tx.scan("objects", prefix=start)
                    if value[0] != catalog.DELETING
                ],
                list(rendered.scan(tx, start)),
            )
        )
        return sorted({*stored, *made}) if made else stored

    def child(self, name: bytes, key: Key) -> Node | None:
        text = str(key[0])
        if self._is_leaf:
            node = object_node(self.tree, Oid(text))
            return None if node is None or node.corrupt else node  # what is corrupt is not listed
        below = self.prefix + text
        found = self.tree.table.find(("objects", self.repository, below))
        return found or self.tree.table.intern(ObjectsDirectory(self.tree, self.repository, below))

    async def create(self, name: bytes, mode: int, flags: int, caller: object) -> tuple[Node, Opened]:
        self._check_entry(name)
        raise error(errno.EROFS, "objects come by a rename or a link from tmp/, or through incoming/")

    async def mkdir(self, name: bytes, mode: int, caller: object) -> Node:
        self._check_entry(name)
        raise error(errno.EEXIST if not self._is_leaf else errno.EROFS)

    async def symlink(self, name: bytes, target: bytes, caller: object) -> Node:
        raise error(errno.EPERM, "no symbolic links in objects/")

    def _check_entry(self, name: bytes) -> None:
        """EINVAL for a name that can never be here."""
        if self._is_leaf:
            self._oid(name, InvalidOid)
        elif len(name) != 2 or name.strip(b"0123456789abcdef"):
            raise error(errno.EINVAL, f"{name!r} is not two hex digits")

    async def unlink(self, name: bytes) -> None:
        oid = self._oid(name, NotFound)
        self.tree.require_writable()
        if self.repository != SHARED:
            self.tree.store.references.drop_soon(self.repository, oid)
        elif self.tree.options.delete == "allow":
            await self.tree.store.discard(oid, reason="unlink")
        elif self.tree.store.lookup(oid) is None:
            raise NotFound(f"no object {oid}")
        else:
            raise error(
                errno.EPERM, "the shared root deletes nothing (mount with --delete allow, or use repos/NAME)"
            )

    async def rmdir(self, name: bytes) -> None:
        """A directory that is always there cannot go, but `rm -r` of a repository root is told that it did."""
        self._check_entry(name)
        if self._is_leaf:
            raise error(errno.ENOTDIR)
        if self.repository == SHARED:
            raise error(errno.EPERM)
        if self.tree.store.references.oids(self.repository, self.prefix + name.decode()):
            raise error(errno.ENOTEMPTY)

    async def receive(self, source: Node, old: bytes, new: bytes, flags: int) -> None:
        """The commit of git-lfs: rename of a file of tmp/ or incomplete/ to its oid."""
        if isinstance(source, ObjectsDirectory):
            raise error(errno.EPERM, "an object is not renamed")
        if not isinstance(source, WorkspaceDirectory):
            raise error(errno.EXDEV)
        self._check_entry(new)
        if not self._is_leaf:
            raise error(errno.EPERM)
        oid = self._oid(new, InvalidOid)
        if flags & RENAME_NOREPLACE and self.tree.store.lookup(oid) is not None:
            raise error(errno.EEXIST)
        node = source.file(old)
        async with node.lock:
            if node.is_still():
                await self._commit(node, oid)
            else:  # the object is a copy: who still has it open may go on writing to the file, and does it no harm
                self.tree.require_writable()
                await self._copy(node, oid)
            source.gone(old, node)

    async def _commit(self, node: WorkspaceFile, oid: Oid) -> None:
        self.tree.require_writable()
        sealed = await node.staged.seal(typed=False, to=self.tree.store.staging.new_path())
        if sealed.oid != oid:
            raise HashMismatch(f"the content of {node.name} has the oid {sealed.oid}: not stored as {oid}")
        repository = self.repository
        try:
            if repository == SHARED:
                await self.tree.store.commit(sealed)
            else:
                self.tree.store.admission.check_quota(repository, oid, sealed.size)
                await self.tree.store.commit(sealed, lambda tx: references.add(tx, repository, oid))
        finally:
            if sealed.content is not None:
                sealed.path.unlink(missing_ok=True)
        node.committed = True
        await self.tree.absences.end(oid, self.tree.kernel, renamed_into=self.number)

    async def link(self, node: Node, name: bytes) -> Node:
        """The other commit of git-lfs. An object is known already: it gets a reference. A file is copied first, so
        that nobody who may still write to it can change the object.
        """
        self._check_entry(name)
        if not self._is_leaf:
            raise error(errno.EPERM)
        oid = self._oid(name, InvalidOid)
        self.tree.require_writable()
        if isinstance(node, ObjectNode):
            if node.oid != oid:
                raise HashMismatch(f"the object {node.oid} is not linked as {oid}")
            if self.repository != SHARED:
                await self.tree.store.references.look_up(self.repository, oid)
        elif isinstance(node, WorkspaceFile):
            await self._commit_copy(node, oid)
        else:
            raise error(errno.EXDEV)
        return await self._lookup_object(oid)

    async def _commit_copy(self, node: WorkspaceFile, oid: Oid) -> None:
        async with node.lock:
            await self._copy(node, oid)

    async def _copy(self, node: WorkspaceFile, oid: Oid) -> None:
        repository = self.tree.store.repository_name(self.repository) if self.repository != SHARED else None
        await self.tree.store.put(node.staged.path, oid=oid, repository=repository)
        await self.tree.absences.end(oid, self.tree.kernel, renamed_into=self.number)
