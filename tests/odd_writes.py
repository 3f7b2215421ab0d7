"""Ways to write an open file other than from its first byte to its last; each returns what the file then holds."""

import mmap
import os

MIB = 1 << 20


def sparse(fd: int) -> bytes:
    os.pwrite(fd, b"end", 3 * MIB)
    return bytes(3 * MIB) + b"end"


def backwards(fd: int) -> bytes:
    pieces = [os.urandom(100_000) for _ in range(30)]
    for number in reversed(range(30)):
        os.pwrite(fd, pieces[number], number * 100_000)
    return b"".join(pieces)


def header_last(fd: int) -> bytes:
    body = os.urandom(2 * MIB)
    os.write(fd, bytes(16) + body)
    os.pwrite(fd, b"sixteen bytes..!", 0)
    return b"sixteen bytes..!" + body


def mapped(fd: int) -> bytes:
    content = os.urandom(MIB + 5)
    os.ftruncate(fd, len(content))
    with mmap.mmap(fd, len(content)) as pages:
        pages[:] = content
    return content


def cut(fd: int) -> bytes:
    content = os.urandom(3 * MIB)
    os.write(fd, content)
    os.ftruncate(fd, MIB + 7)
    os.lseek(fd, 0, os.SEEK_END)
    os.write(fd, b"tail")
    return content[: MIB + 7] + b"tail"


def overwritten(fd: int) -> bytes:
    os.write(fd, bytes(2 * MIB))
    os.pwrite(fd, b"patch", MIB - 2)
    return bytes(MIB - 2) + b"patch" + bytes(MIB - 3)


ODD_WRITES = [sparse, backwards, header_last, mapped, cut, overwritten]
