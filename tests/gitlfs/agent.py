"""A custom transfer agent, as `lfs.customtransfer.<name>.path` starts it.

`agent.py DEPOT TEMP`: objects lie in DEPOT under their oid; what is downloaded is put into TEMP first, and
git-lfs renames it from there to objects/, so TEMP has to be inside lfs.storage.
Protocol: git-lfs docs/custom-transfers.md, a JSON object a line.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any


def main() -> None:
    depot, temp = Path(sys.argv[1]), Path(sys.argv[2])
    for line in sys.stdin:
        event = json.loads(line)
        if event["event"] == "terminate":
            return
        if event["event"] == "init":
            say({})
        else:
            say(transferred(event, depot, temp))


def transferred(event: dict[str, Any], depot: Path, temp: Path) -> dict[str, Any]:
    """Does one upload or download; the `complete` event, with the error if it failed."""
    oid, complete = event["oid"], {"event": "complete", "oid": event["oid"]}
    try:
        if event["event"] == "upload":
            copy(Path(event["path"]), depot / oid)
        else:
            fd, name = tempfile.mkstemp(prefix="agent-", dir=temp)
            os.close(fd)
            copy(depot / oid, Path(name))
            complete["path"] = name
    except OSError as error:
        complete["error"] = {"code": error.errno or 1, "message": str(error)}
        return complete
    say({"event": "progress", "oid": oid, "bytesSoFar": event["size"], "bytesSinceLast": event["size"]})
    return complete


def copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer)


def say(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    main()
