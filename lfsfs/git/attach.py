"""Attaching a clone to a mount: its lfs.storage becomes a repository root, repos/NAME, of its own.

The clone's configuration keeps the name of its root as lfsfs.name, so that it finds it again when the store
is mounted elsewhere. Objects that the clone had before are brought along, and stay where they were. All of
that happens before lfs.storage changes, so a failure leaves the clone as it was.
"""

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

from lfsfs.errors import NotFound, Refused, Unavailable
from lfsfs.git.objects import Progress, as_lfsfs_error, bring_along, bring_back, objects_in
from lfsfs.git.repository import STORAGE, Clone, find_clone
from lfsfs.git.roots import is_anothers, new_root, renew_claim, take_root
from lfsfs.mounts import MountEntry, health, lfsfs_mounts, mount_at, mount_of

NAME = "lfsfs.name"


@dataclass(frozen=True)
class Attached:
    """What attaching did. `already`: the clone was attached, and nothing changed.

    `imported`: how many objects of its own storage the root refers to now; `reclaimable`: their bytes, which
    lie in `own_storage` still; `corrupt`: those that are not what their names say, and stayed behind.
    """

    root: Path
    already: bool
    own_storage: Path
    imported: int = 0
    reclaimable: int = 0
    corrupt: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Detached:
    """What detaching did: `copied` objects were brought back. `root` None: the clone was not attached."""

    root: Path | None
    copied: int = 0
    copied_bytes: int = 0


def attach(
    path: Path, *, name: str | None = None, mountpoint: Path | None = None, progress: Progress | None = None
) -> Attached:
    """Attaches the repository at `path`. Repeating it changes nothing and says so.

    `name`: by default after the repository's directory, with a number where another clone has that. Exists if
    the given one is taken by another clone; Refused if lfs.storage is set to something else.
    """
    clone = find_clone(path)
    mount = find_mount(mountpoint)
    known = clone.get(NAME)
    present = _present_root(clone, mount, known)
    if present is not None and not is_anothers(present, clone):
        if name is not None and name != present.name:
            raise Refused(f"{path} is attached as {present.name} already: `lfsfs detach` first")
        renew_claim(present, clone)
        return Attached(present, True, clone.own_storage)
    root = _take_root(clone, mount.mountpoint / "repos", name, known)
    own = list(objects_in(clone.own_storage / "objects"))
    corrupt = bring_along(own, root, progress)
    if present is not None:  # a copy of an attached clone, and what it may not have pushed
        bring_along(list(objects_in(present / "objects")), root, progress)
    clone.set(NAME, root.name)
    clone.set(STORAGE, str(root))
    sizes = [file.stat().st_size for _, file in own if file not in corrupt]
    return Attached(root, False, clone.own_storage, len(sizes), sum(sizes), tuple(corrupt))


def register(path: Path, *, name: str | None = None, mountpoint: Path | None = None) -> Path:
    """Has gc read the repository at `path`, which keeps its objects where it does; the root that stands for it.

    For who uses the mountpoint itself as storage directory, and for bare repositories. Repeating changes nothing.
    """
    clone = find_clone(path)
    mount = find_mount(mountpoint)
    root = _take_root(clone, mount.mountpoint / "repos", name, clone.get(NAME))
    clone.set(NAME, root.name)
    return root


def _take_root(clone: Clone, roots: Path, name: str | None, known: str | None) -> Path:
    """The one that is named, else the one that the clone had before, else a new one."""
    if name is None and (known is None or is_anothers(roots / known, clone)):
        return new_root(roots, clone)
    return take_root(roots, name or known or "", clone)


def detach(path: Path, *, keep: bool = False, progress: Progress | None = None) -> Detached:
    """Ends it: the clone has its objects in its own storage again, and its root is removed.

    A copy of an attached clone, which was never attached itself, leaves the root to the original.

    With `keep`, only the configuration changes: nothing is copied, and the root stays. A repeat is harmless.
    """
    clone = find_clone(path)
    storage = clone.get(STORAGE)
    if storage is None:
        clone.unset(NAME)
        return Detached(None)
    root = Path(storage)
    mount = mount_of(root) if root.is_absolute() else None
    if clone.get(NAME) is None and (mount is None or root.parent != mount.mountpoint / "repos"):
        raise Refused(f"{path} is not attached: its {STORAGE} is {storage}")
    copied, size = 0, 0
    if not keep:
        _check_reachable(root, mount)
        copied, size = bring_back(root, clone.own_storage, progress)
    clone.unset(STORAGE)
    clone.unset(NAME)
    if not keep and not is_anothers(root, clone):
        _remove_root(root)
    return Detached(root, copied, size)


def find_mount(mountpoint: Path | None) -> MountEntry:
    """The mount at `mountpoint`, or the only one there is. It answers: else Unavailable."""
    mount = _the_only_mount() if mountpoint is None else mount_at(mountpoint)
    if mount is None:
        raise NotFound(f"no lfsfs mount at {mountpoint}: `lfsfs mount STORE {mountpoint}` makes one")
    _check_alive(mount)
    return mount


def _the_only_mount() -> MountEntry:
    found = lfsfs_mounts()
    if not found:
        raise NotFound("nothing is mounted: `lfsfs mount STORE MNT` first")
    if len(found) > 1:
        places = ", ".join(str(entry.mountpoint) for entry in found)
        raise Refused(f"which mount? There are {places}: give --mount MNT")
    return found[0]


def _check_alive(mount: MountEntry) -> None:
    if health(mount.mountpoint) != "alive":
        again = f"`lfsfs unmount {mount.mountpoint}`, and mount it again"
        raise Unavailable(f"the mount at {mount.mountpoint} does not answer: {again}")


def _present_root(clone: Clone, mount: MountEntry, known: str | None) -> Path | None:
    """The root in this mount that lfs.storage names, if it is there. Refused where that is something else."""
    storage = clone.get(STORAGE)
    if storage is None:
        return None
    root = Path(storage)
    if root.parent == mount.mountpoint / "repos":
        return root if root.is_dir() else None
    if known is None or root.name != known:
        raise Refused(
            f"{STORAGE} of {clone.path} is set to {storage}: bring those objects to {clone.own_storage},"
            f" where git-lfs keeps them by itself, `git config --unset {STORAGE}`, and attach then"
        )
    other = mount_of(root)
    if other is not None and other.store != mount.store:
        raise Refused(f"{clone.path} is attached to {other.mountpoint}: `lfsfs detach` first")
    return None  # the store is mounted somewhere else now


def _check_reachable(root: Path, mount: MountEntry | None) -> None:
    if mount is not None:
        _check_alive(mount)
    if mount is None or not root.is_dir():
        raise Unavailable(
            f"{root} is not mounted, so the objects cannot be brought back:"
            " mount it first, or `lfsfs detach --keep` to go on without them"
        )


def _remove_root(root: Path) -> None:
    """Drops every reference of the root, and the root. It may be removed in one call, or entry by entry."""
    try:
        root.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise as_lfsfs_error(error, f"detached; cannot remove {root}") from error
        shutil.rmtree(root)
