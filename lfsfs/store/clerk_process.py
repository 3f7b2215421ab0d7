"""The process of a clerk (clerk.py): takes small files from its socket, and makes objects of them until that is closed.

As many as have come by the time that the last ones are done go into one transaction. What cannot be done here for
whatever reason is left to the one who asked: to do it anew, and to say why where that fails, too.
"""

import marshal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from lfsfs.oid import Oid
from lfsfs.store.clerk import BUFFER_BYTES, PACKET_BYTES
from lfsfs.store.entering import enter_small
from lfsfs.store.index import Index, Tx
from lfsfs.store.names import Naming, decode_inode
from lfsfs.store.staged_file import Sealed
from lfsfs.store.staging import Staging
from lfsfs.store.write_ahead import WriteAhead
from lfsfs.tiers.local import LocalTier

MOST = 64  # files in a transaction
READY = b"ready"


def main(descriptor: int, root: Path, at: Path, staging: Path, *, uploads: bool, durable: bool) -> None:
    """Serves until the other side is closed."""
    with socket.socket(fileno=descriptor) as ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        index = Index(at, durable=durable)
        ahead = WriteAhead(index, LocalTier(root, durable=durable), Staging(staging), bounded=uploads)
        ahead.is_open = True
        try:
            ours.send(READY)
            while texts := _collect(ours):
                asked = [marshal.loads(text) for text in texts]
                done = index.apply([_work(ahead, uploads, *rest) for _, *rest in asked])
                answers = [
                    (one[0], None if isinstance(created, BaseException) else created)
                    for one, created in zip(asked, done, strict=True)
                ]
                ours.send(marshal.dumps(answers))
        except (ConnectionResetError, BrokenPipeError):
            pass  # the mount has ended, and nobody asks any more
        finally:
            index.close()


def _collect(ours: socket.socket) -> list[bytes]:
    """What has come, at least one; empty where nothing will."""
    texts = [ours.recv(PACKET_BYTES)]
    while texts[-1] and len(texts) < MOST:
        try:
            texts.append(ours.recv(PACKET_BYTES, socket.MSG_DONTWAIT))
        except BlockingIOError:
            break
    return [text for text in texts if text]


def _work(
    ahead: WriteAhead, uploads: bool, oid: str, blocks: bytes, content_type: str, mode: int, content: bytes,
    temporary: str, number: int, inode: bytes, place: tuple[int, bytes] | None,
) -> Callable[[Tx], int | None]:  # fmt: skip
    """What makes it an object; it returns when that was, None where it takes more than this."""
    sealed = Sealed(Path(temporary), Oid(oid), len(content), blocks, content_type, mode, content)
    naming = Naming(decode_inode(number, inode), place)

    def write(tx: Tx) -> int | None:
        row = enter_small(tx, sealed, ahead, naming.enter, uploads=uploads)
        return None if row is None else row.created

    return write


if __name__ == "__main__":
    _number, *_paths, _uploads, _durable = sys.argv[1:]
    main(int(_number), *map(Path, _paths), uploads=_uploads == "1", durable=_durable == "1")
