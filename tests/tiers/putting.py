"""A process that puts files into a LocalTier, so that tests can kill it, and starve or watch what it does.

Arguments: sync or fast, the tier's root, then the files. Prints the name of the error if there is one.
"""

import subprocess
import sys
from pathlib import Path

import trio

from lfsfs.errors import LfsfsError
from lfsfs.oid import Oid
from lfsfs.tiers import LocalTier


def put_in_child(
    root: Path, *files: Path, durability: str = "sync", under: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs this file; `under` is a command to run it under, `environment` is all it gets."""
    command = [*under, sys.executable, __file__, durability, str(root), *map(str, files)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


async def put_all(tier: LocalTier, files: list[Path]) -> None:
    for file in files:
        await tier.put(Oid.of(file.read_bytes()), file)


if __name__ == "__main__":
    try:
        trio.run(
            put_all,
            LocalTier(Path(sys.argv[2]), durable=sys.argv[1] == "sync"),
            list(map(Path, sys.argv[3:])),
        )
    except LfsfsError as failure:
        print(type(failure).__name__)
        sys.exit(1)
