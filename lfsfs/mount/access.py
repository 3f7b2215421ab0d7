"""Access: who may do what in the mount, asked for each operation, beside the mode bits that the kernel looks at.

Four roles, each with all that those before it have: none, reader, writer, admin.

- A reader looks up, lists and reads everything. In git-lfs's own directories (tmp/, incomplete/, logs/ …) a reader
  writes as well: git-lfs does so to read.
- A writer makes objects, names and vectors, makes repository roots, and drops references of theirs (prune).
- An admin removes repository roots, and what the shared root lets go (`--delete allow`).

root and the user that the daemon runs as are admins: the store is theirs to read and to write anyway. What the kernel
remembers it tells without asking: attributes and names that somebody has looked up. Bytes and lists it asks for each
time a file or directory is opened, so these are refused to whoever may not have them.
"""

import errno
import grp
import os
import pwd
import time
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

from lfsfs.config_policy import PermissionOptions
from lfsfs.errors import InvalidConfig
from lfsfs.fuse import Caller, Changes, EntryAttributes, FileInfo, StatfsData
from lfsfs.mount.nodes import Node, Tree, error, wants_write
from lfsfs.mount.objects import SHARED, ObjectsDirectory
from lfsfs.mount.operations import Operations
from lfsfs.mount.roots import RepositoriesDirectory, StorageRoot
from lfsfs.mount.workspace import WorkspaceDirectory, WorkspaceFile
from lfsfs.store.layout import WORKSPACE_FILES

EVERYBODY = "*"
GROUP = "@"
REMEMBERED_SECONDS = 1.0  # what a process's groups are believed for
REMEMBERED = 1024  # processes


class Role(IntEnum):
    """What somebody may do."""

    NONE = 0
    READER = 1
    WRITER = 2
    ADMIN = 3


class Roles:
    """The roles of users and groups. InvalidConfig where one is not known on this machine."""

    def __init__(self, options: PermissionOptions) -> None:
        self._everybody = Role.NONE
        self._users: dict[int, Role] = {0: Role.ADMIN, os.geteuid(): Role.ADMIN}
        self._groups: dict[int, Role] = {}
        self._remembered: dict[Caller, tuple[float, Role]] = {}
        for role, names in (
            (Role.ADMIN, options.admins),
            (Role.WRITER, options.writers),
            (Role.READER, options.readers),
        ):
            for name in names:
                self._enter(name, role)

    def _enter(self, name: str, role: Role) -> None:
        if name == EVERYBODY:
            self._everybody = max(role, self._everybody)
        elif name.startswith(GROUP):
            number = _group(name.removeprefix(GROUP))
            self._groups[number] = max(role, self._groups.get(number, role))
        else:
            number = _user(name)
            self._users[number] = max(role, self._users.get(number, role))

    def of(self, caller: Caller) -> Role:
        """The greatest role of the user and of all groups of the process that asks."""
        role = max(self._everybody, self._users.get(caller.uid, Role.NONE))
        if role is Role.ADMIN or not self._groups:
            return role
        return max(role, self._of_groups(caller._replace(umask=0)))

    def _of_groups(self, caller: Caller) -> Role:
        now = time.monotonic()
        found = self._remembered.get(caller)
        if found is not None and now < found[0]:
            return found[1]
        role = max((self._groups.get(number, Role.NONE) for number in groups_of(caller)), default=Role.NONE)
        if len(self._remembered) >= REMEMBERED:
            self._remembered.clear()
        self._remembered[caller] = (now + REMEMBERED_SECONDS, role)
        return role


def groups_of(caller: Caller) -> set[int]:
    """The groups of the process that asks: its own, or, where that cannot be told, those that its user has by name.

    It cannot for a process of another pid namespace, which the kernel gives as 0, where /proc hides others', and where
    the process is gone and its number is another's: then its last uid, that of the file system, is not the caller's.
    """
    found = {caller.gid}
    try:
        status = Path(f"/proc/{caller.pid}/status").read_text() if caller.pid else ""
    except OSError:
        status = ""
    said = dict(line.partition(":")[::2] for line in status.splitlines())
    uids = said.get("Uid", "").split()
    if len(uids) == 4 and uids[3] == str(caller.uid):
        return found | {int(number) for number in said.get("Groups", "").split()}
    try:
        user = pwd.getpwuid(caller.uid)
    except KeyError:
        return found
    return found | set(os.getgrouplist(user.pw_name, caller.gid))


def _user(name: str) -> int:
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError as unknown:
        raise InvalidConfig(
            f"[permissions] names the user {name!r}, whom this machine does not know"
        ) from unknown


def _group(name: str) -> int:
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as unknown:
        raise InvalidConfig(
            f"[permissions] names the group {name!r}, which this machine does not know"
        ) from unknown


def operations_of(tree: Tree, permissions: PermissionOptions) -> Operations:
    """The handlers of the mount. Without permissions nothing is asked, and nothing costs anything."""
    return GuardedOperations(tree, Roles(permissions)) if permissions.is_on else Operations(tree)


class GuardedOperations(Operations):
    """Asks for the caller's role first. What is read or written through an open file was asked when it was opened."""

    def __init__(self, tree: Tree, roles: Roles) -> None:
        super().__init__(tree)
        self._roles = roles

    def _need(self, role: Role, ctx: Caller) -> None:
        """EACCES."""
        if self._roles.of(ctx) < role:
            raise error(errno.EACCES, f"uid {ctx.uid} is no {role.name.lower()} here")

    # Reading.

    async def lookup(self, parent: int, name: bytes, ctx: Caller) -> EntryAttributes:
        self._need(Role.READER, ctx)
        return await super().lookup(parent, name, ctx)

    async def getattr(self, inode: int, ctx: Caller) -> EntryAttributes:
        self._need(Role.READER, ctx)
        return await super().getattr(inode, ctx)

    async def readlink(self, inode: int, ctx: Caller) -> bytes:
        self._need(Role.READER, ctx)
        return await super().readlink(inode, ctx)

    async def open(self, inode: int, flags: int, ctx: Caller) -> FileInfo:
        self._need(_writing(self._node(inode)) if wants_write(flags) else Role.READER, ctx)
        return await super().open(inode, flags, ctx)

    def open_at_once(self, inode: int, flags: int) -> FileInfo | None:
        """Never: somebody has to be asked for."""
        return None

    async def opendir(self, inode: int, ctx: Caller) -> FileInfo:
        self._need(Role.READER, ctx)
        return await super().opendir(inode, ctx)

    async def statfs(self, ctx: Caller) -> StatfsData:
        self._need(Role.READER, ctx)
        return await super().statfs(ctx)

    async def getxattr(self, inode: int, name: bytes, ctx: Caller) -> bytes:
        self._require_xattr()  # first: its ENOSYS switches them off for all
        self._need(Role.READER, ctx)
        return await super().getxattr(inode, name, ctx)

    async def listxattr(self, inode: int, ctx: Caller) -> Sequence[bytes]:
        self._require_xattr()
        self._need(Role.READER, ctx)
        return await super().listxattr(inode, ctx)

    # Changing.

    async def setattr(self, inode: int, changes: Changes, fh: int | None, ctx: Caller) -> EntryAttributes:
        self._need(_writing(self._node(inode)), ctx)
        return await super().setattr(inode, changes, fh, ctx)

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: Caller
    ) -> tuple[FileInfo, EntryAttributes]:
        self._need(_making(self._node(parent), name), ctx)
        return await super().create(parent, name, mode, flags, ctx)

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Caller) -> EntryAttributes:
        self._need(_making(self._node(parent), name), ctx)
        return await super().mknod(parent, name, mode, rdev, ctx)

    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Caller) -> EntryAttributes:
        self._need(_making(self._node(parent), name), ctx)
        return await super().mkdir(parent, name, mode, ctx)

    async def symlink(self, parent: int, name: bytes, target: bytes, ctx: Caller) -> EntryAttributes:
        self._need(Role.WRITER, ctx)
        return await super().symlink(parent, name, target, ctx)

    async def link(self, inode: int, parent: int, name: bytes, ctx: Caller) -> EntryAttributes:
        self._need(_making(self._node(parent), name), ctx)
        return await super().link(inode, parent, name, ctx)

    async def unlink(self, parent: int, name: bytes, ctx: Caller) -> None:
        node = self._node(parent)
        shared = isinstance(node, ObjectsDirectory) and node.repository == SHARED
        self._need(Role.ADMIN if shared else _making(node, name), ctx)
        await super().unlink(parent, name, ctx)

    async def rmdir(self, parent: int, name: bytes, ctx: Caller) -> None:
        node = self._node(parent)
        self._need(Role.ADMIN if isinstance(node, RepositoriesDirectory) else _making(node, name), ctx)
        await super().rmdir(parent, name, ctx)

    async def rename(
        self, parent_old: int, name_old: bytes, parent_new: int, name_new: bytes, flags: int, ctx: Caller
    ) -> None:
        old, new = self._node(parent_old), self._node(parent_new)
        self._need(max(_making(old, name_old), _making(new, name_new)), ctx)
        await super().rename(parent_old, name_old, parent_new, name_new, flags, ctx)


def _writing(node: Node) -> Role:
    """Who may write to it."""
    return Role.READER if isinstance(node, WorkspaceFile | WorkspaceDirectory) else Role.WRITER


def _making(directory: Node, name: bytes) -> Role:
    """Who may make, rename and remove what has this name there."""
    own = isinstance(directory, StorageRoot) and os.fsdecode(name) in WORKSPACE_FILES
    return Role.READER if own else _writing(directory)
