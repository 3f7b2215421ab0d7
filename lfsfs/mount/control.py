""".lfsfs/: what the mount says of itself: status (JSON), metrics (Prometheus text), why/<oid>."""

import stat
from collections.abc import Awaitable, Callable
from typing import ClassVar

from lfsfs.errors import InvalidOid, NotFound
from lfsfs.fuse import EntryAttributes
from lfsfs.mount.nodes import Directory, Key, Node, Opened, TextHandle, Tree, error, wants_write
from lfsfs.oid import Oid

Render = Callable[[], Awaitable[str]]


class ReportNode(Node):
    """A text that is made anew at each open. Its size is not known before: it is read until it ends."""

    attribute_seconds: ClassVar[float] = 0.0

    def __init__(self, tree: Tree, key: Key, render: Render) -> None:
        super().__init__(tree, key)
        self._render = render

    def attributes(self) -> EntryAttributes:
        return self.tree.attributes(self, stat.S_IFREG | 0o444)

    async def open(self, flags: int) -> Opened:
        if wants_write(flags):
            raise error(30)
        return Opened(TextHandle((await self._render()).encode()), direct_io=True)


class ControlDirectory(Directory):
    """.lfsfs/ itself."""

    mode: ClassVar[int] = 0o555

    def __init__(self, tree: Tree, reports: dict[str, Render]) -> None:
        super().__init__(tree, ("control",))
        self._reports = reports

    async def entries(self) -> list[tuple[bytes, Key]]:
        return [(name.encode(), (name,)) for name in (*self._reports, "why")]

    def child(self, name: bytes, key: Key) -> Node | None:
        text = str(key[0])
        found = self.tree.table.find(("control", text))
        if found is not None:
            return found
        if text == "why":
            return self.tree.table.intern(WhyDirectory(self.tree))
        return self.tree.table.intern(ReportNode(self.tree, ("control", text), self._reports[text]))


class WhyDirectory(Directory):
    """why/<oid>: what keeps the object alive, a line each. Lists nothing: it would be the whole store."""

    mode: ClassVar[int] = 0o555

    def __init__(self, tree: Tree) -> None:
        super().__init__(tree, ("control", "why"))

    async def entries(self) -> list[tuple[bytes, Key]]:
        return []

    async def lookup(self, name: bytes) -> Node | None:
        try:
            oid = Oid(name.decode("ascii", "replace"))
        except InvalidOid as invalid:
            raise NotFound(str(invalid)) from invalid
        if self.tree.store.lookup(oid) is None:
            raise NotFound(f"no object {oid}")
        return self.report(oid)

    def report(self, oid: Oid) -> Node:
        """The node of the object's file."""

        async def render() -> str:
            reasons = await self.tree.store.why(oid)
            return "".join(f"{reason}\n" for reason in reasons) or "nothing refers to it\n"

        key = ("control", "why", oid)
        return self.tree.table.find(key) or self.tree.table.intern(ReportNode(self.tree, key, render))
