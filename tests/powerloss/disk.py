"""A disk that forgets: of what was done to its files, what was synced is on it, and of the rest whatever it likes.

A file is durable as far as fsync(2), fdatasync(2) or O_DSYNC say so; a name, when the folder that it is in was synced,
and for a rename either of the two folders. A call counts as synced that had ended when the sync began.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .recorded import Call

SECTOR_BYTES = 512
LENGTH_ONLY = -1.0
"""Of a change of bytes: the file is as long as it made it."""


@dataclass
class Node:
    """A file or, where it has names, a folder."""

    number: int
    folder: bool
    names: dict[str, "Node"] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)


@dataclass
class Change:
    """Bytes of a file: from `offset` on; or, with `size`, its new length. Or names: each now a node, or none."""

    ended: int
    node: Node | None = None
    offset: int = 0
    content: bytes = b""
    size: int | None = None
    names: tuple[tuple[Node, str, Node | None], ...] = ()
    durable_from: int | None = None
    """After how many calls it is on the disk."""

    @property
    def nodes(self) -> list[Node]:
        return [self.node] if self.node is not None else [folder for folder, _, _ in self.names]


@dataclass
class _Open:
    node: Node
    offset: int = 0
    appends: bool = False
    synchronous: bool = False


class Disk:
    """The history of the files below `root`, from the calls of a process; `said`: after which call it said what."""

    def __init__(self, root: Path, calls: list[Call]) -> None:
        self.root = str(root)
        self._nodes = 0
        self.top = self._new(folder=True)
        self.changes: list[Change] = []
        self.said: list[tuple[int, str]] = []
        self.length = len(calls)
        self._open: dict[int, _Open] = {}
        self._ended = 0
        for number, call in enumerate(calls, 1):
            self._ended = number
            handler: Callable[[Call], None] | None = getattr(self, f"_{call.name}", None)
            if handler is not None:
                handler(call)

    def _new(self, *, folder: bool = False) -> Node:
        self._nodes += 1
        return Node(self._nodes, folder)

    # The volatile state.

    def _find(self, path: str) -> Node | None:
        if path != self.root and not path.startswith(f"{self.root}/"):
            return None
        node: Node | None = self.top
        for name in path[len(self.root) :].split("/"):
            if name:
                node = node.names.get(name) if node is not None else None
        return node

    def _place(self, path: str) -> tuple[Node, str] | None:
        folder = self._find(os.path.dirname(path))
        return (folder, os.path.basename(path)) if folder is not None else None

    def _do(self, change: Change) -> None:
        apply(change)
        self.changes.append(change)

    def _enter(self, *names: tuple[Node, str, Node | None]) -> None:
        self._do(Change(self._ended, names=names))

    def _write_at(self, opened: _Open, offset: int, content: bytes) -> None:
        change = Change(self._ended, opened.node, offset, content)
        if opened.synchronous:
            change.durable_from = self._ended
        self._do(change)

    def _sync_node(self, node: Node | None, call: Call) -> None:
        """None: everything."""
        for change in self.changes:
            concerned = node is None or any(changed is node for changed in change.nodes)
            if concerned and change.durable_from is None and change.ended <= call.began:
                change.durable_from = self._ended

    # The calls.

    def _openat(self, call: Call) -> None:
        path = os.path.normpath(call.opened)
        flags = call.arguments[2]
        node = self._find(path)
        place = self._place(path)
        if node is None and place is not None and "O_CREAT" in flags:
            node = self._new()
            self._enter((*place, node))
        if node is None:
            self._open.pop(call.result, None)
            return
        if "O_TRUNC" in flags and node.content:
            self._do(Change(self._ended, node, size=0))
        self._open[call.result] = _Open(
            node, 0, "O_APPEND" in flags, any(flag in flags for flag in ("O_DSYNC", "O_SYNC"))
        )

    def _lseek(self, call: Call) -> None:
        if opened := self._opened(call):
            opened.offset = call.result

    def _opened(self, call: Call) -> _Open | None:
        place = call.place(0)
        if place != self.root and not place.startswith(f"{self.root}/"):
            return None
        return self._open.get(call.descriptor(0))

    def _write(self, call: Call) -> None:
        if opened := self._opened(call):
            at = len(opened.node.content) if opened.appends else opened.offset
            self._write_at(opened, at, call.text(1)[: call.result])
            opened.offset = at + call.result
        elif call.descriptor(0) == 1 and call.place(0) == os.devnull:  # not a command that it runs
            self.said += [(self._ended, line) for line in call.text(1).decode().splitlines() if line]

    _writev = _write

    def _pwrite64(self, call: Call) -> None:
        if opened := self._opened(call):
            self._write_at(opened, call.number(3), call.text(1)[: call.result])

    _pwritev = _pwritev2 = _pwrite64

    def _copy_file_range(self, call: Call) -> None:
        raise NotImplementedError("bytes that strace does not see")

    _sendfile = _copy_file_range

    def _ftruncate(self, call: Call) -> None:
        if opened := self._opened(call):
            self._do(Change(self._ended, opened.node, size=call.number(1)))

    def _fallocate(self, call: Call) -> None:
        if opened := self._opened(call):
            raise NotImplementedError(f"fallocate of {opened.node.number}")

    def _fsync(self, call: Call) -> None:
        if opened := self._opened(call):
            self._sync_node(opened.node, call)

    _fdatasync = _fsync

    def _syncfs(self, call: Call) -> None:
        if self._opened(call):
            self._sync_node(None, call)

    def _mkdir(self, call: Call) -> None:
        if place := self._place(os.path.normpath(call.path(0))):
            self._enter((*place, self._new(folder=True)))

    def _mkdirat(self, call: Call) -> None:
        if place := self._place(call.path(1, 0)):
            self._enter((*place, self._new(folder=True)))

    def _unlink(self, call: Call) -> None:
        self._remove(call.path(0))

    _rmdir = _unlink

    def _unlinkat(self, call: Call) -> None:
        self._remove(call.path(1, 0))

    def _remove(self, path: str) -> None:
        if place := self._place(path):
            self._enter((*place, None))

    def _rename(self, call: Call) -> None:
        self._move(call.path(0), call.path(1))

    def _renameat(self, call: Call) -> None:
        self._move(call.path(1, 0), call.path(3, 2))

    _renameat2 = _renameat

    def _move(self, old: str, new: str) -> None:
        source, target, node = self._place(old), self._place(new), self._find(old)
        if source is None or target is None or node is None:
            assert source is None and target is None, f"in or out of the folder: {old} {new}"
            return
        self._enter((*target, node), (*source, None))

    def _link(self, call: Call) -> None:
        self._add(call.path(0), call.path(1))

    def _linkat(self, call: Call) -> None:
        self._add(call.path(1, 0), call.path(3, 2))

    def _add(self, old: str, new: str) -> None:
        node, place = self._find(old), self._place(new)
        if place is not None:
            assert node is not None, f"a link to what lies elsewhere: {old}"
            self._enter((*place, node))

    # After a power cut.

    def acknowledged(self, after: int) -> list[str]:
        return [text for ended, text in self.said if ended <= after]

    def left(self, after: int, keeps: Callable[[Change], float]) -> Node:
        """The tree that is on the disk when the power goes after so many calls.

        `keeps`: how much of a change that was not synced is on the disk, from 0 to 1 (of bytes; names: if it is 1).
        """
        fresh: dict[int, Node] = {}

        def again(node: Node) -> Node:
            return fresh.setdefault(node.number, Node(node.number, node.folder))

        for change in self.changes:
            if change.ended > after:
                break
            durable = change.durable_from is not None and change.durable_from <= after
            share = 1.0 if durable else keeps(change)
            node = again(change.node) if change.node is not None else None
            if share == LENGTH_ONLY and node is not None:
                end = change.offset + len(change.content)
                apply(Change(0, node, size=max(len(node.content), end)))
            elif share == 1 or (share > 0 and node is not None):
                names = tuple(
                    (again(folder), name, again(entry) if entry is not None else None)
                    for folder, name, entry in change.names
                )
                content = change.content if share == 1 else _sectors(change.content, share)
                apply(Change(0, node, change.offset, content, change.size, names))
        return again(self.top)

    def moments(self, first: str) -> list[int]:
        """After how many calls something is another than before, from the time on when `first` was said."""
        begin = next(ended for ended, text in self.said if text == first)
        found = {change.ended for change in self.changes} | {ended for ended, _ in self.said}
        found |= {change.durable_from for change in self.changes if change.durable_from is not None}
        return sorted(moment for moment in found if moment >= begin)


def _sectors(content: bytes, share: float) -> bytes:
    return content[: int(len(content) * share) // SECTOR_BYTES * SECTOR_BYTES]


def apply(change: Change) -> None:
    node = change.node
    for folder, name, entry in change.names:
        if entry is None:
            folder.names.pop(name, None)
        else:
            folder.names[name] = entry
    if node is not None and change.size is not None:
        del node.content[change.size :]
        node.content.extend(bytes(change.size - len(node.content)))
    elif node is not None and change.content:
        node.content.extend(bytes(max(0, change.offset - len(node.content))))
        node.content[change.offset : change.offset + len(change.content)] = change.content


def write(node: Node, path: Path) -> None:
    """Makes the tree at `path`, hard links too."""
    made: dict[int, Path] = {}

    def make(node: Node, path: Path) -> None:
        if node.folder:
            path.mkdir()
            for name, entry in node.names.items():
                make(entry, path / name)
        elif node.number in made:
            os.link(made[node.number], path)
        else:
            path.write_bytes(node.content)
            made[node.number] = path

    make(node, path)


# How a disk forgets.


def nothing_unsynced(change: Change) -> float:
    """Only what was synced."""
    return 0


def names_without_bytes(change: Change) -> float:
    """All names and lengths, and no byte that was not synced: as with delayed allocation."""
    return 1 if change.node is None or change.size is not None else LENGTH_ONLY


def all_of_it(change: Change) -> float:
    return 1


def by_chance(seed: int) -> Callable[[Change], float]:
    """Some of it, and of some bytes the first sectors."""
    chance = random.Random(seed)
    return lambda change: chance.choice((0.0, 1.0, chance.random()))
