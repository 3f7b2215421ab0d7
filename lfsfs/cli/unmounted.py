"""A store to oneself: while a command works on it, no daemon serves it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lfsfs import mounts
from lfsfs.alone import try_alone
from lfsfs.errors import InUse
from lfsfs.store.layout import DAEMON_LOCK


@contextmanager
def unmounted(store: Path, then: str) -> Iterator[None]:
    """InUse, with what to do, where a daemon serves it. `then`: what to do after that, in words."""
    with (store / DAEMON_LOCK).open("a+b") as lock:
        if not try_alone(lock):
            mounted = [str(entry.mountpoint) for entry in mounts.mounts_of_store(store.resolve())]
            how = f"`lfsfs unmount {mounted[0]}`" if mounted else f"`lfsfs serve {store} --stop`"
            raise InUse(f"{store} is {'mounted' if mounted else 'served'}: {how}, {then}")
        yield
