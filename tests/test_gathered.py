"""However many files are written at once, what is gathered of them for the hash stays small, and the hash right."""

import hashlib
import os
from pathlib import Path

import trio

from lfsfs.store import gathered
from lfsfs.store.gathered import Gathered
from lfsfs.store.staged_file import MEMORY_BYTES, SLICE_BYTES, StagedFile
from lfsfs.store.staging import Staging

PIECE = SLICE_BYTES * 3 // 4


async def test_many_files_written_by_turns_hold_no_more_than_the_limit(tmp_path: Path) -> None:
    staging = Staging(tmp_path)
    held: Gathered = staging.gathered
    contents = [os.urandom(PIECE) for _ in range(gathered.LIMIT_BYTES // PIECE + 20)]
    files = [staging.new_file() for _ in contents]
    for file, content in zip(files, contents, strict=True):
        file.acquire()
        await file.write(0, content)
        assert held.bytes <= gathered.LIMIT_BYTES
    assert held.bytes > gathered.LIMIT_BYTES - PIECE, "the newest are gathered on"
    for file, content in zip(files, contents, strict=True):
        await file.write(PIECE, content[:100])
        sealed = await file.seal()
        assert sealed.oid == hashlib.sha256(content + content[:100]).hexdigest()
        file.release()
        staging.discard(file)
    assert held.bytes == 0
    await trio.to_thread.run_sync(staging.close)


async def test_a_file_that_nobody_has_open_holds_nothing(tmp_path: Path) -> None:
    staging = Staging(tmp_path)
    path = tmp_path / "temp"
    path.touch()
    file: StagedFile = staging.follow(path, "key")
    file.acquire()
    await file.write(0, bytes(MEMORY_BYTES))
    assert staging.gathered.bytes == MEMORY_BYTES
    file.release()
    assert staging.gathered.bytes == 0
    sealed = await file.seal()
    assert sealed.oid == hashlib.sha256(bytes(MEMORY_BYTES)).hexdigest()
    await trio.to_thread.run_sync(staging.close)
