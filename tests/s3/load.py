"""A process that works on a mount as programs do: writes files, reads its own and others' back, compares.

load.py MOUNT NUMBER FILES BYTES SEED    prints the oids it has committed; fails at the first error or wrong byte
"""

import os
import random
import sys
from hashlib import sha256
from pathlib import Path

PIECE = 1 << 18


def content(seed: str, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def write(path: Path, content: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(content), PIECE):
            file.write(content[start : start + PIECE])


def main(mount: Path, number: int, files: int, size: int, seed: str) -> None:
    folder = mount / "incoming" / f"{seed}-{number}"
    folder.mkdir()
    chosen = random.Random(f"{seed} {number}")
    for file in range(files):
        # Not all of one size: what is reserved has to fit all the same.
        length = size if file % 3 else chosen.randrange(1, size)
        written = content(f"{seed} {number} {file}", length)
        write(folder / f"{file}", written)
        print(sha256(written).hexdigest(), flush=True)
        again = chosen.randrange(file + 1)
        back = (folder / f"{again}").read_bytes()
        expected = content(f"{seed} {number} {again}", len(back))
        if back != expected or os.stat(folder / f"{again}").st_size != len(back):
            raise SystemExit(f"{folder}/{again}: {len(back)} bytes that are not what was written")
    for file in range(files):
        back = (folder / f"{file}").read_bytes()
        if back != content(f"{seed} {number} {file}", len(back)):
            raise SystemExit(f"{folder}/{file}: {len(back)} bytes that are not what was written")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]), sys.argv[5])
