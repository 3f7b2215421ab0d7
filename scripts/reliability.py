"""docs/RELIABILITY.md: what was tried, how often and with what result, as the long runs wrote it down themselves.

    reliability.py add COMMAND WHAT TRIED RESULT     a run: appended to docs/reliability.jsonl, the table made anew
    reliability.py render                            the table made anew

scripts/torture calls it, and so do the tests that it runs (tests/recording.py). Nobody writes there by hand.
LFSFS_RELIABILITY is another folder than docs/, for runs that are not to be told of.
"""

import fcntl
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

DOCS = Path(os.environ.get("LFSFS_RELIABILITY") or Path(__file__).parents[1] / "docs")
RUNS = DOCS / "reliability.jsonl"
TABLE = DOCS / "RELIABILITY.md"
FAILED = "FAILED"
HEAD = """# What was tried

Each row is what `scripts/torture` wrote down at the end of its own runs (`reliability.jsonl`, a line a run): this page
is made from them, by `scripts/reliability.py`, and a test sees that it is. *Runs* counts the runs of that command on
record, failed ones too; the rest is of the last one. Shorter forms of all these are in the test command, `scripts/test`.

| What | Tried | Result | Date | Runs | Failed | Command |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Run:
    """One thing that one command tried. `date` is UTC."""

    date: str
    command: str
    what: str
    tried: str
    result: str


def read(runs: Path = RUNS) -> list[Run]:
    """In the order in which they were written."""
    lines = runs.read_text().splitlines() if runs.exists() else []
    return [Run(**json.loads(line)) for line in lines]


def add(command: str, what: str, tried: str, result: str, runs: Path = RUNS) -> None:
    """Appends a run; several processes may at once."""
    run = Run(time.strftime("%Y-%m-%d", time.gmtime()), command, what, tried, result)
    with runs.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(asdict(run), ensure_ascii=False) + "\n")


def rendered(runs: list[Run]) -> str:
    """The page."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.what, run.command), []).append(run)
    rows = [_row(same) for _, same in sorted(found.items())]
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(same: list[Run]) -> list[str]:
    last = same[-1]
    failed = sum(run.result == FAILED for run in same)
    cells = [last.what, last.tried, last.result, last.date, str(len(same)), str(failed)]
    return [cell.replace("|", "\\|") for cell in cells] + [f"`{last.command}`"]


def main(arguments: list[str]) -> int:
    match arguments:
        case ["add", command, what, tried, result]:
            add(command, what, tried, result)
        case ["render"]:
            pass
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    TABLE.write_text(rendered(read()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
