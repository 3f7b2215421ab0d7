"""A transfer agent that waits for work: git-lfs starts several at once, and most of them get none.

So nothing is imported here that takes its time. What comes after the first request is the concern of agent.py.
"""

import json
import sys

COMMAND = "transfer-agent"
Work = tuple[str, bytes]
"""The remote that git-lfs means, and the line that asks for an object."""


def first_work() -> Work | None:
    """Answers `init`; returns when there is something to do. None: there never was."""
    remote = ""
    while line := sys.stdin.buffer.readline():
        event = json.loads(line)
        if event.get("event") == "terminate":
            return None
        if event.get("event") != "init":
            return remote, line
        remote = str(event.get("remote", ""))
        sys.stdout.write("{}\n")
        sys.stdout.flush()
    return None
