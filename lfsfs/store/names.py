"""Names: the tree below incoming/, kept in the index: directories, files that name an object, symbolic links.

Inodes and entries, as in any Unix file system: an entry gives a name in a directory to an inode, hard links are two
entries of one inode, a rename moves an entry. All functions here run inside a transaction. Names are bytes.
"""

import struct
import time
from typing import Literal, NamedTuple

from lfsfs.errors import Exists, InvalidName, LfsfsError, NameTooLong, NotFound
from lfsfs.oid import EMPTY_OID, Oid
from lfsfs.store import catalog, unrecorded
from lfsfs.store.catalog import u64
from lfsfs.store.index import Tx

ROOT = 1
NAME_LIMIT_BYTES = 255
Kind = Literal["directory", "file", "symlink"]
_KINDS: tuple[Kind, ...] = ("directory", "file", "symlink")
_INODE = struct.Struct(
    ">BIIIIQqqq32s"
)  # kind, mode, uid, gid, links, size, atime, mtime, ctime, oid; then the target
_TIMES = struct.Struct(">qq")  # mtime and ctime, in the middle of it
_TIMES_START = struct.calcsize(">BIIIIQq")
_SEARCH_LIMIT_BYTES = 400


class NotDirectory(LfsfsError):
    """A name in the middle of a path is not a directory."""

    errno, status = 20, 409


class IsDirectory(LfsfsError):
    """A directory where a file is wanted."""

    errno, status = 21, 409


class NotEmpty(LfsfsError):
    """The directory still holds names."""

    errno, status = 39, 409


class Inode(NamedTuple):
    """A node of the tree. Times are nanoseconds since 1970; `mode` holds permission bits only.

    A tuple, as many are made for each file that is written.
    """

    number: int
    kind: Kind
    mode: int
    uid: int
    gid: int
    links: int
    size: int
    atime: int
    mtime: int
    ctime: int
    oid: Oid = EMPTY_OID
    target: bytes = b""


class Naming(NamedTuple):
    """What a commit makes of a file of incoming/: `inode`, as it is to be, and `place`, where it gets its first name.

    `place` None: it has its names, which stay.
    """

    inode: Inode
    place: tuple[int, bytes] | None

    def enter(self, tx: Tx) -> None:
        """In the transaction of the commit."""
        if self.place is not None:
            enter(tx, *self.place, self.inode)
            return
        present = get(tx, self.inode.number)
        if present is not None:
            put(tx, self.inode._replace(links=present.links))


def new_inode(number: int, kind: Kind, mode: int, uid: int, gid: int, target: bytes = b"") -> Inode:
    now = time.time_ns()
    return Inode(number, kind, mode, uid, gid, 1, len(target), now, now, now, EMPTY_OID, target)


def encode_inode(inode: Inode) -> bytes:
    return _INODE.pack(
        _KINDS.index(inode.kind), inode.mode, inode.uid, inode.gid, inode.links, inode.size,
        inode.atime, inode.mtime, inode.ctime, inode.oid.to_bytes(),
    ) + inode.target  # fmt: skip


def decode_inode(number: int, value: bytes) -> Inode:
    kind, mode, uid, gid, links, size, atime, mtime, ctime, oid = _INODE.unpack_from(value)
    target = value[_INODE.size :]
    return Inode(
        number, _KINDS[kind], mode, uid, gid, links, size, atime, mtime, ctime, Oid.from_bytes(oid), target
    )  # fmt: skip


def reserve(tx: Tx, amount: int) -> int:
    """Takes `amount` inode numbers for this process; the first of them."""
    last = catalog.add(tx, b"last_inode", amount)
    return last - amount + ROOT + 1


def get(tx: Tx, number: int) -> Inode | None:
    value = tx.get("inodes", u64(number))
    return None if value is None else decode_inode(number, value)


def put(tx: Tx, inode: Inode) -> None:
    """Writes the inode in place of the older one, and the entry by which its object knows it."""
    old = get(tx, inode.number)
    if old is not None and old.kind == "file" and old.oid != inode.oid:
        tx.delete("names_by_oid", old.oid.to_bytes() + u64(inode.number))
        unrecorded.mark_oid(tx, old.oid.to_bytes())
    tx.put("inodes", u64(inode.number), encode_inode(inode))
    unrecorded.mark_inode(tx, inode.number)
    if inode.kind == "file":
        tx.put("names_by_oid", inode.oid.to_bytes() + u64(inode.number), b"")
        unrecorded.mark_oid(tx, inode.oid.to_bytes())


def restore(tx: Tx, inode: Inode, links: list[tuple[int, bytes]]) -> None:
    """An inode with its names as they once were. Repeating is harmless; the order of inodes does not matter."""
    put(tx, inode)
    for parent, name in links:
        _add_entry(tx, parent, name, inode.number)
    if inode.number > catalog.counter(tx, b"last_inode") + ROOT:
        catalog.add(tx, b"last_inode", inode.number - ROOT - catalog.counter(tx, b"last_inode"))


def make_root(tx: Tx, uid: int, gid: int) -> None:
    if get(tx, ROOT) is None:
        put(tx, new_inode(ROOT, "directory", 0o777, uid, gid))


def find(tx: Tx, parent: int, name: bytes) -> Inode | None:
    value = tx.get("entries", u64(parent) + name)
    return None if value is None else get(tx, int.from_bytes(value, "big"))


def children(tx: Tx, parent: int) -> list[tuple[bytes, int]]:
    """Name and inode number of each entry, in the order of the names' bytes."""
    return [(key[8:], int.from_bytes(value, "big")) for key, value in tx.scan("entries", prefix=u64(parent))]


def check_name(name: bytes) -> bytes:
    """Raises InvalidName for what no directory can hold."""
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise InvalidName(f"not a file name: {name!r}")
    if len(name) > NAME_LIMIT_BYTES:
        raise NameTooLong(f"a name of {len(name)} bytes: {NAME_LIMIT_BYTES} is the most")
    return name


def enter(tx: Tx, parent: int, name: bytes, inode: Inode) -> None:
    """Gives `name` in `parent` to a new inode, and writes the inode. A file that has the name loses it.

    NotFound if the directory is gone; IsDirectory or Exists where the name is a directory's, or taken and the
    new inode is no file.
    """
    _living_directory(tx, parent)
    present = find(tx, parent, check_name(name))
    if present is not None and present.number != inode.number:
        if present.kind == "directory":
            raise IsDirectory(f"{name!r} is a directory")
        if inode.kind != "file":
            raise Exists(f"{name!r} is there already")
        _leave(tx, parent, name, present)
    put(tx, inode)
    _add_entry(tx, parent, name, inode.number)
    _touch(tx, parent)


def link(tx: Tx, number: int, parent: int, name: bytes) -> Inode:
    """One more name for an inode that is no directory."""
    _living_directory(tx, parent)
    inode = get(tx, number)
    if inode is None:
        raise NotFound(f"no inode {number}")
    if find(tx, parent, check_name(name)) is not None:
        raise Exists(f"{name!r} is there already")
    inode = inode._replace(links=inode.links + 1, ctime=time.time_ns())
    put(tx, inode)
    _add_entry(tx, parent, name, number)
    _touch(tx, parent)
    return inode


def unlink(tx: Tx, parent: int, name: bytes) -> Inode:
    """Takes the name away; the inode as it is afterwards (links 0: it is gone). Never a directory."""
    inode = find(tx, parent, name)
    if inode is None:
        raise NotFound(f"no name {name!r}")
    if inode.kind == "directory":
        raise IsDirectory(f"{name!r} is a directory")
    inode = _leave(tx, parent, name, inode)
    _touch(tx, parent)
    return inode


def rmdir(tx: Tx, parent: int, name: bytes) -> Inode:
    inode = find(tx, parent, name)
    if inode is None:
        raise NotFound(f"no name {name!r}")
    if inode.kind != "directory":
        raise NotDirectory(f"{name!r} is not a directory")
    if _has_children(tx, inode.number):
        raise NotEmpty(f"{name!r} is not empty")
    inode = _leave(tx, parent, name, inode)
    _touch(tx, parent)
    return inode


def rename(tx: Tx, old: tuple[int, bytes], new: tuple[int, bytes], *, replacing: bool = True) -> Inode | None:
    """Moves an entry; the inode that lost its name by it, as it is afterwards. POSIX rules."""
    inode = find(tx, *old)
    if inode is None:
        raise NotFound(f"no name {old[1]!r}")
    _living_directory(tx, new[0])
    present = find(tx, new[0], check_name(new[1]))
    if present is not None and present.number == inode.number:
        return None  # two links of one inode: POSIX says that nothing happens
    if present is not None:
        _check_replaceable(tx, inode, present, new[1], replacing)
        present = _leave(tx, new[0], new[1], present)
    if inode.kind == "directory":
        _check_no_loop(tx, inode.number, new[0])
    _drop_entry(tx, old[0], old[1], inode.number)
    _add_entry(tx, new[0], new[1], inode.number)
    put(tx, inode._replace(ctime=time.time_ns()))
    _touch(tx, old[0])
    _touch(tx, new[0])
    return present


def numbers_of(tx: Tx, oid: Oid) -> list[int]:
    """The inodes whose content the object is."""
    return [int.from_bytes(key[32:], "big") for key, _ in tx.scan("names_by_oid", prefix=oid.to_bytes())]


def paths(tx: Tx, number: int) -> list[bytes]:
    """Every path below incoming/ that leads to the inode, without a leading slash."""
    if number == ROOT:
        return [b""]
    found = []
    for key, _ in tx.scan("parents", prefix=u64(number)):
        parent, name = int.from_bytes(key[8:16], "big"), key[16:]
        found += [above + b"/" + name if above else name for above in paths(tx, parent)]
    return found


def resolve(tx: Tx, path: bytes) -> Inode:
    """The inode at a path below incoming/. NotFound, NotDirectory."""
    inode = get(tx, ROOT)
    for name in path.strip(b"/").split(b"/") if path.strip(b"/") else []:
        if inode is None or inode.kind != "directory":
            raise NotDirectory(f"{path!r}: a part of the path is not a directory")
        inode = find(tx, inode.number, name)
        if inode is None:
            raise NotFound(f"no name {path!r} in incoming/")
    if inode is None:
        raise NotFound("incoming/ is empty")
    return inode


def search_key(name: bytes) -> bytes:
    """Names are found regardless of case; what is no UTF-8 is found by its bytes."""
    return (
        name.decode("utf-8", "surrogateescape")
        .casefold()
        .encode("utf-8", "surrogateescape")[:_SEARCH_LIMIT_BYTES]
    )


def _add_entry(tx: Tx, parent: int, name: bytes, number: int) -> None:
    unrecorded.mark_inode(tx, number)
    tx.put("entries", u64(parent) + name, u64(number))
    tx.put("parents", u64(number) + u64(parent) + name, b"")
    tx.put("by_name", search_key(name) + b"\0" + u64(number), b"")


def _drop_entry(tx: Tx, parent: int, name: bytes, number: int) -> None:
    unrecorded.mark_inode(tx, number)
    tx.delete("entries", u64(parent) + name)
    tx.delete("parents", u64(number) + u64(parent) + name)
    wanted = search_key(name)
    others = (key[16:] for key, _ in tx.scan("parents", prefix=u64(number)))
    if all(search_key(other) != wanted for other in others):
        tx.delete("by_name", wanted + b"\0" + u64(number))


def _leave(tx: Tx, parent: int, name: bytes, inode: Inode) -> Inode:
    _drop_entry(tx, parent, name, inode.number)
    inode = inode._replace(links=inode.links - 1, ctime=time.time_ns())
    if inode.links > 0 and inode.kind != "directory":
        put(tx, inode)
    else:
        tx.delete("inodes", u64(inode.number))
        tx.delete("names_by_oid", inode.oid.to_bytes() + u64(inode.number))
        unrecorded.mark_inode(tx, inode.number)
        unrecorded.mark_oid(tx, inode.oid.to_bytes())
    return inode


def _living_directory(tx: Tx, number: int) -> None:
    value = tx.get("inodes", u64(number))
    if value is None:
        raise NotFound("the directory was removed")
    if _KINDS[value[0]] != "directory":
        raise NotDirectory("not a directory")


def _check_replaceable(tx: Tx, inode: Inode, present: Inode, name: bytes, replacing: bool) -> None:
    if not replacing:
        raise Exists(f"{name!r} is there already")
    if present.kind == "directory":
        if inode.kind != "directory":
            raise IsDirectory(f"{name!r} is a directory")
        if _has_children(tx, present.number):
            raise NotEmpty(f"{name!r} is not empty")
    elif inode.kind == "directory":
        raise NotDirectory(f"{name!r} is not a directory")


def _check_no_loop(tx: Tx, number: int, parent: int) -> None:
    while parent != ROOT:
        if parent == number:
            raise InvalidName("a directory cannot move into itself")
        above = tx.seek("parents", u64(parent))
        if above is None or not above.startswith(u64(parent)):
            raise NotFound("the directory was removed")
        parent = int.from_bytes(above[8:16], "big")


def _has_children(tx: Tx, number: int) -> bool:
    key = tx.seek("entries", u64(number))
    return key is not None and key.startswith(u64(number))


def _touch(tx: Tx, number: int) -> None:
    """The directory has changed now. Of its row only that is written anew: it is once for each name that is made."""
    value = tx.get("inodes", u64(number))
    if value is not None:
        now = time.time_ns()
        row = value[:_TIMES_START] + _TIMES.pack(now, now) + value[_TIMES_START + _TIMES.size :]
        tx.put("inodes", u64(number), row)
        unrecorded.mark_inode(tx, number)
