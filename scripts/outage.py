#!/usr/bin/env python3
"""How long a mount is away: the longest gap, in milliseconds, of a client that stats, opens and reads in a loop.

    scripts/outage.py MNT/incoming/some-file SECONDS

Meanwhile, elsewhere: `lfsfs restart MNT`, or whatever is to be measured. Standard library only: it is a client.
"""

import os
import sys
import time

PAUSE_SECONDS = 0.0005


def longest_gap(path: str, seconds: float) -> tuple[float, int, int]:
    """Seconds between two rounds that went well, at most; how many did, and how many did not."""
    end = time.monotonic() + seconds
    last, gap, rounds, failures = time.monotonic(), 0.0, 0, 0
    while time.monotonic() < end:
        try:
            os.stat(path)
            with open(path, "rb", buffering=0) as file:
                file.read(4096)
        except OSError:
            failures += 1
        else:
            now = time.monotonic()
            gap, last, rounds = max(gap, now - last), now, rounds + 1
        time.sleep(PAUSE_SECONDS)
    return gap, rounds, failures


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    gap, rounds, failures = longest_gap(sys.argv[1], float(sys.argv[2]))
    print(f"longest gap {gap * 1000:.0f} ms; {rounds} rounds, {failures} failures")
