"""The table of nodes: by inode number and by key, as long as the kernel or an open file knows them.

The number of a key is a keyed hash of it: the same after a remount, and not to be guessed. Two keys that hash alike get
numbers next to each other, so that one can never be taken for the other.

A listing tells the kernel of every name, and the kernel may keep millions. So what can be made again from a few bytes (a
vector is a row of the index) is kept as those, some 200 bytes with all that goes with it, and is a node only while
somebody uses it. Where there are more than KNOWN_LIMIT of them the kernel is asked to forget the oldest.
"""

import errno
import hashlib
import os
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import trio

from lfsfs.fuse import ROOT_INODE

if TYPE_CHECKING:
    from lfsfs.mount.nodes import Node

KNOWN_LIMIT = 1_000_000  # of those that are kept as a few bytes: 200 MB
AWAKE_LIMIT = 10_000  # of those that are nodes although nobody has them open: 15 MB
SURPLUS = 20_000  # so many names at once is the kernel asked to forget
Key = tuple[object, ...]
N = TypeVar("N", bound="Node")
_MEMO = struct.Struct(">IHQ")  # lookups, number of the parent in the table, mark; then the token
_PARENTS_LIMIT = 1 << 16


class Memo(NamedTuple):
    """What a node can be made from again: the key of its directory, and what that knows it by."""

    parent: Key
    token: bytes


class Sleeper(NamedTuple):
    """What the kernel knows from an earlier daemon, and nobody has asked for since."""

    key: Key
    lookups: int
    mark: int


class NodeTable:
    """Every node that the kernel or an open file knows. Used from one thread.

    What an earlier daemon knew sleeps until somebody asks for it, by number or by key; `remake` makes a node of its
    key then, and interns it; None where it is gone.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._by_number: dict[int, Node] = {}
        self._by_key: dict[Key, Node] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # that can be made again, the last used at the end
        self._memos: dict[int, bytes] = {}
        self._parents: list[Key] = []
        self._parent_numbers: dict[Key, int] = {}
        self._asleep: dict[int, Sleeper] = {}
        self._sleeping: dict[Key, int] = {}
        self.remake: Callable[[Key], Node | None] | None = None
        self.crowded = trio.Event()
        """Set when the kernel knows more than KNOWN_LIMIT of them."""

    def __len__(self) -> int:
        return len(self._by_number) + len(self._memos) + len(self._asleep)

    def __iter__(self) -> Iterator["Node"]:
        """Those that are nodes now."""
        return iter(list(self._by_number.values()))

    def get(self, number: int) -> "Node":
        node = self._by_number.get(number)
        if node is None:
            return self._made_again(number)
        if number in self._idle:
            self._idle.move_to_end(number)
        return node

    def find(self, key: Key) -> "Node | None":
        node = self._by_key.get(key)
        return self._woken(self._sleeping[key]) if node is None and key in self._sleeping else node

    def intern(self, node: N) -> N:
        """Takes in a node whose key is not in the table yet."""
        node.number = self._number(node)
        record = self._memos.pop(node.number, None)
        if record is not None:
            lookups, _, node.mark = _MEMO.unpack_from(record)
            node.lookups += lookups
        if self._asleep:
            self._rouse(node)
        self._add(node)
        return node

    def place(self, node: "Node") -> None:
        """Gives a node that is not in the table the number that it would have there."""
        if self._by_number.get(node.number) is not node:
            node.number = self._number(node)

    def told(self, node: "Node") -> None:
        """The kernel was told of the node, once more. One that is not in the table can be made again."""
        if self._by_number.get(node.number) is node:
            node.lookups += 1
            self._rest(node)
            return
        record, memo = self._memos.get(node.number), node.memo()
        lookups, _, node.mark = _MEMO.unpack_from(record) if record is not None else (0, 0, 0)
        if memo is None or not self._note(node.number, lookups + 1, memo, node.mark):
            self.intern(node).lookups += 1

    def forget(self, number: int, lookups: int) -> None:
        """The kernel takes back that it was told of it so often."""
        node = self._by_number.get(number)
        if node is not None:
            node.lookups -= lookups
            self._drop_unused(node)
            return
        if number in self._asleep:
            self._forget_sleeper(number, lookups)
        record = self._memos.get(number)
        if record is not None:
            known, parent, mark = _MEMO.unpack_from(record)
            if known > lookups:
                self._memos[number] = _MEMO.pack(known - lookups, parent, mark) + record[_MEMO.size :]
            else:
                del self._memos[number]

    def pin(self, node: "Node") -> None:
        node.pins += 1
        self._idle.pop(node.number, None)

    def unpin(self, node: "Node") -> None:
        node.pins -= 1
        self._drop_unused(node)
        self._rest(node)

    def rekey(self, node: "Node", key: Key) -> None:
        """The node stands for something else from now on; the kernel knows it by the same number."""
        if self._by_key.get(node.key) is node:
            del self._by_key[node.key]
        node.key = key
        self._by_key.setdefault(key, node)

    # From one daemon to the next.

    def sleepers(self) -> list[tuple[int, Key, int, int]]:
        """All but those that are kept as a few bytes: number, key, lookups, mark."""
        found = [
            (number, node.key, node.lookups, node.mark)
            for number, node in self._by_number.items()
            if not self._rests(node)
        ]
        return found + [(number, *sleeper) for number, sleeper in self._asleep.items()]

    def memos(self) -> tuple[list[Key], dict[int, bytes]]:
        """Those that are kept as a few bytes, or can be: the directories that they name by a number, and the rest."""
        for node in [node for node in self._by_number.values() if self._rests(node)]:
            memo = node.memo()
            assert memo is not None
            self._note(node.number, node.lookups, memo, node.mark)
        found = dict(self._memos)
        for number in self._by_number:  # which is awake here, and asleep only there
            self._memos.pop(number, None)
        return list(self._parents), found

    def sleep(
        self, sleepers: Iterable[tuple[int, Key, int, int]], memos: tuple[list[Key], dict[int, bytes]]
    ) -> None:
        """What an earlier daemon's table had. At the start, of an empty table."""
        for number, key, lookups, mark in sleepers:
            self._asleep[number] = Sleeper(key, lookups, mark)
            self._sleeping[key] = number
        parents, self._memos = memos
        self._parents = list(parents)
        self._parent_numbers = {key: place for place, key in enumerate(parents)}

    def wake(self, *kinds: str) -> int:
        """Makes nodes of those whose keys begin so, of all if none is given; how many are gone."""
        wanted = [number for number, (key, _, _) in self._asleep.items() if not kinds or key[0] in kinds]
        return sum(self._woken(number) is None for number in wanted if number in self._asleep)

    def _rests(self, node: "Node") -> bool:
        """Whether a few bytes say all that there is to know of it."""
        return node.remakeable and node.lookups > 0 and node.memo() is not None and self._has_room(node)

    def _has_room(self, node: "Node") -> bool:
        memo = node.memo()
        return memo is not None and (
            memo.parent in self._parent_numbers or len(self._parents) < _PARENTS_LIMIT
        )

    def _woken(self, number: int) -> "Node | None":
        sleeper = self._asleep.pop(number, None)
        if sleeper is None or self.remake is None:
            return None  # it is being made just now, and looked for on the way
        try:
            node = self.remake(sleeper.key)
        finally:
            self._sleeping.pop(sleeper.key, None)
        if node is not None:
            node.lookups += sleeper.lookups
            node.mark = sleeper.mark
        return node

    def _rouse(self, node: "Node") -> None:
        """A node that is taken in was asleep, perhaps."""
        number = self._sleeping.pop(node.key, None)
        sleeper = None if number is None else self._asleep.pop(number, None)
        if sleeper is not None:
            node.lookups += sleeper.lookups
            node.mark = sleeper.mark

    def _forget_sleeper(self, number: int, lookups: int) -> None:
        sleeper = self._asleep[number]
        if sleeper.lookups > lookups:
            self._asleep[number] = sleeper._replace(lookups=sleeper.lookups - lookups)
        else:
            del self._asleep[number]
            self._sleeping.pop(sleeper.key, None)

    # What the kernel knows, for whoever makes it forget.

    def number_of(self, node: "Node") -> int | None:
        """The number by which the kernel knows a node of this key; None if it does not."""
        known = self._by_key.get(node.key)
        if known is not None:
            return known.number
        if node.key in self._sleeping:
            return self._sleeping[node.key]
        number = self._number(node)
        return number if number in self._memos else None

    def below(self, parent: Key) -> list[bytes]:
        """The tokens of a directory's names that are known and not nodes now."""
        wanted = self._parent_numbers.get(parent)
        found = list(self._memos.values())
        return [record[_MEMO.size :] for record in found if _MEMO.unpack_from(record)[1] == wanted]

    def surplus(self) -> list[tuple["Node", bytes]]:
        """Directories, and tokens of names in them that the kernel is to forget, since it knows too many."""
        over = min(len(self._memos) - KNOWN_LIMIT, SURPLUS)
        found = []
        for number in list(islice(self._memos, max(0, over))):
            record = self._memos[number] = self._memos.pop(number)  # last, in case the kernel knows better
            parent = self._by_key.get(self._parents[_MEMO.unpack_from(record)[1]])
            if parent is not None:
                found.append((parent, record[_MEMO.size :]))
        return found

    # Nodes and memos.

    def _add(self, node: "Node") -> None:
        self._by_number[node.number] = node
        self._by_key[node.key] = node

    def _remove(self, node: "Node") -> None:
        self._by_number.pop(node.number, None)
        self._idle.pop(node.number, None)
        if self._by_key.get(node.key) is node:
            del self._by_key[node.key]

    def _drop_unused(self, node: "Node") -> None:
        if node.lookups <= 0 and node.pins <= 0 and node.key != ("root",):
            self._remove(node)

    def _rest(self, node: "Node") -> None:
        """What can be made again is a node no longer once so many others were used since."""
        if not node.remakeable or node.pins or node.lookups <= 0:
            return
        self._idle[node.number] = None
        self._idle.move_to_end(node.number)
        if len(self._idle) > AWAKE_LIMIT:
            number, _ = self._idle.popitem(last=False)
            oldest = self._by_number[number]
            memo = oldest.memo()
            if memo is not None and self._note(number, oldest.lookups, memo, oldest.mark):
                self._remove(oldest)

    def _note(self, number: int, lookups: int, memo: Memo, mark: int) -> bool:
        """Whether there was room for one more directory."""
        parent = self._parent_numbers.get(memo.parent)
        if parent is None:
            if len(self._parents) == _PARENTS_LIMIT:
                return False
            parent = self._parent_numbers[memo.parent] = len(self._parents)
            self._parents.append(memo.parent)
        self._memos[number] = _MEMO.pack(lookups, parent, mark) + memo.token
        if len(self._memos) > KNOWN_LIMIT:
            self.crowded.set()
        return True

    def _made_again(self, number: int) -> "Node":
        record = self._memos.get(number)
        if record is not None:
            lookups, place, mark = _MEMO.unpack_from(record)
            parent = self._by_key.get(self._parents[place])
            node = None if parent is None else parent.remake(record[_MEMO.size :])
            if node is not None:
                del self._memos[number]
                node.number, node.lookups, node.mark = number, lookups, mark
                self._add(node)
                self._rest(node)
                return node
        woken = self._woken(number)
        if woken is not None:
            return woken
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def _number(self, node: "Node") -> int:
        """That by which the kernel knows it already, or the first that is free."""
        if node.key == ("root",):
            return ROOT_INODE
        if node.key in self._sleeping:
            return self._sleeping[node.key]
        number, memo = self._hash(node.key), node.memo()
        while number in self._by_number or not self._is_free(number, memo):
            number += 1
        return number

    def _is_free(self, number: int, memo: Memo | None) -> bool:
        record = self._memos.get(number)
        if record is None:
            return number not in self._asleep
        parent = _MEMO.unpack_from(record)[1]
        return memo is not None and (self._parents[parent], record[_MEMO.size :]) == memo

    def _hash(self, key: Key) -> int:
        text = "\0".join([part.decode("latin-1") if isinstance(part, bytes) else str(part) for part in key])
        digest = hashlib.blake2b(text.encode(), digest_size=8, key=self._secret).digest()
        return int.from_bytes(digest, "big") >> 2 | 1 << 61
