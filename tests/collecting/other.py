"""Another process of the same store, which does what it is told on its standard input, a line each, and answers a line.

other.py STORE [daemon]: `daemon`: it holds the daemon's lock, and answers epochs.

    look OID      as a lookup in repos/game/objects: "there", and repos/game refers to it; or "gone"
    put TEXT      commits an object to which repos/game refers: "there"
    soon OID      adds a reference that reaches the index a moment later: a lookup before gc had noticed it
    stop, go      does not answer epochs any more; does so again
"""

import fcntl
import sys
from pathlib import Path

import trio

from lfsfs import Oid, Store, open_store
from lfsfs.errors import NotFound
from lfsfs.store import epochs
from lfsfs.store.layout import DAEMON_LOCK


async def act(store: Store, word: str, argument: str) -> str:
    root = store.repository("game").id
    if word == "put":
        await store.put(argument.encode(), repository="game")
        return "there"
    oid = Oid(argument)
    if word == "soon":
        store.references.add_soon(root, oid)
        return "there"
    if store.lookup(oid) is None:
        return "gone"
    try:
        await store.references.look_up(root, oid)
    except NotFound:
        return "gone"
    return "there"


async def main(path: Path, *, daemon: bool) -> None:
    async with open_store(path) as store, trio.open_nursery() as nursery:
        lock = (path / DAEMON_LOCK).open("ab")
        answering = trio.CancelScope()
        if daemon:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            nursery.start_soon(answer, store, answering)
        print("ready", flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            word, _, argument = line.strip().partition(" ")
            if word == "stop":
                answering.cancel()
                said = "stopped"
            elif word == "go":
                answering = trio.CancelScope()
                nursery.start_soon(answer, store, answering)
                said = "goes on"
            else:
                said = await act(store, word, argument)
            print(said, flush=True)
        nursery.cancel_scope.cancel()


async def answer(store: Store, scope: trio.CancelScope) -> None:
    with scope:
        await epochs.answer(store.index)


if __name__ == "__main__":
    trio.run(lambda: main(Path(sys.argv[1]), daemon=sys.argv[2:] == ["daemon"]))
