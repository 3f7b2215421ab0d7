"""The clones and bare repositories that are registered with a store: by repository roots, which say whose they are.

`lfsfs attach` writes that (lfsfs.git.roots), in the store and not in its index, so that the loss of the index does not
lose it. gc reads each of them (lfsfs.git.reading).
"""

import os
import socket
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import trio

from lfsfs import steps
from lfsfs.errors import InUse, LfsfsError, NotFound
from lfsfs.git import reading
from lfsfs.git.repository import STORAGE, find_clone
from lfsfs.git.roots import OWNER_FILE, imported_from, owner
from lfsfs.oid import Oid
from lfsfs.store.layout import Layout, check_repository_name
from lfsfs.store.roots import RootUnreadable


@dataclass(frozen=True, slots=True)
class Registered:
    """A clone: `name` of its repository root, the `host` it is on, its git `directory` there."""

    name: str
    host: str
    directory: Path


def registered(layout: Layout) -> list[Registered]:
    """All clones of a store, by name. RootUnreadable where a root's word of whose it is cannot be read."""
    found = []
    folder = layout.repositories
    for root in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not (root / OWNER_FILE).exists():
            continue  # made by hand: what it refers to is in the index
        said = owner(root)
        if said is None:
            raise RootUnreadable(
                f"{root / OWNER_FILE} is damaged, which says whose repos/{root.name} is: `lfsfs attach` in that clone"
                f" writes it anew, `lfsfs detach --forgotten {root.name}` removes the root; nothing was deleted"
            )
        found.append(Registered(root.name, said[0], Path(said[1])))
    return found


def forgotten(layout: Layout, name: str) -> Registered:
    """The clone registered with this name, which may be forgotten. NotFound; InUse where it still uses its root."""
    found = next((one for one in registered(layout) if one.name == name), None)
    imported = imported_from(layout.repositories / check_repository_name(name))
    if found is None and imported is not None:  # it never used the root: there is nothing to detach
        return Registered(name, imported[0], Path(imported[1]))
    if found is None:
        raise NotFound(f"no clone is registered as {name}: `lfsfs gc` names those that are")
    if found.host == socket.gethostname() and found.directory.is_dir() and _uses(found):
        raise InUse(f"the clone {found.directory} is there: `lfsfs detach` in it")
    return found


def _uses(clone: Registered) -> bool:
    """Whether it keeps its objects in the root: not where it is only registered, or broken."""
    try:
        storage = find_clone(clone.directory).get(STORAGE)
    except LfsfsError:
        return False
    return storage is not None and Path(storage).name == clone.name


class Clones:
    """What registered clones refer to."""

    def __init__(self, clones: Iterable[Registered]) -> None:
        self._clones = list(clones)

    async def strike(self, candidates: set[bytes]) -> None:
        """As every root of gc."""
        steps.begin("reading clones", len(self._clones), "clones")
        for (
            clone
        ) in self._clones:  # if nothing is left to strike, too: one that cannot be read is to be known
            await trio.to_thread.run_sync(_strike, clone, candidates)
            steps.add()


def _strike(clone: Registered, candidates: set[bytes]) -> None:
    _check(clone)
    try:
        try:
            _strike_pointers(clone, candidates)
        except (
            LfsfsError
        ):  # a `git gc` in the clone may have taken a pack away that was being read: once more
            _strike_pointers(clone, candidates)
    except (LfsfsError, OSError) as failed:
        raise RootUnreadable(
            f"the clone {clone.directory}, registered as {clone.name}, cannot be read: {failed}; nothing was deleted."
            f" Mend it, run gc as a user who may read it, or `lfsfs detach --forgotten {clone.name}`"
        ) from failed


def _strike_pointers(clone: Registered, candidates: set[bytes]) -> None:
    with closing(reading.pointers(clone.directory)) as found:
        for one in found:
            candidates.discard(one.pointer.oid.to_bytes())


def _check(clone: Registered) -> None:
    forgotten = f"`lfsfs detach --forgotten {clone.name}` if it is gone for good"
    if clone.host != socket.gethostname():
        raise RootUnreadable(
            f"the clone {clone.directory}, registered as {clone.name}, is on the host {clone.host}, and cannot be read"
            f" from here; nothing was deleted. Attach it there, or {forgotten}"
        )
    if not os.path.isdir(clone.directory):
        raise RootUnreadable(
            f"the clone {clone.directory}, registered as {clone.name}, is not there; nothing was deleted."
            f" `lfsfs attach` in the clone if it was moved, {forgotten}"
        )


def why(clones: Iterable[Registered], oid: Oid) -> list[str]:
    """What in the clones refers to the object, a sentence each. One that cannot be read says so. Blocks."""
    said = []
    for clone in clones:
        try:
            _check(clone)
            with closing(reading.pointers(clone.directory)) as found:
                one = next((found for found in found if found.pointer.oid == oid), None)
            if one is not None:
                where = reading.why(clone.directory, one)
                head, _, rest = where.partition(", ")
                said.append(f"{head} of {clone.name} ({clone.directory}){', ' if rest else ''}{rest}")
        except (LfsfsError, OSError) as failed:
            said.append(f"perhaps the clone {clone.name}: {failed}")
    return said
