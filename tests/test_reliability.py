"""docs/RELIABILITY.md is what the long runs wrote down, and nothing else."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "reliability.py"
sys.path.insert(0, str(SCRIPT.parent))

import reliability  # noqa: E402  # scripts/ is no package


def test_the_page_is_made_of_the_runs() -> None:
    assert reliability.TABLE.read_text() == reliability.rendered(reliability.read())


def test_every_command_of_the_page_is_one_that_torture_has() -> None:
    torture = SCRIPT.with_name("torture").read_text()
    for run in reliability.read():
        script, _, name = run.command.partition(" ")
        assert script == "scripts/torture"
        assert not name or name.isdigit() or f"scripts/torture {name}" in torture


def test_a_run_is_a_row_and_the_next_one_of_its_kind_takes_its_place(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    reliability.add("scripts/torture power", "The power | goes", "1 cut", "held", runs)
    reliability.add("scripts/torture flips", "Bits", "8 bits", reliability.FAILED, runs)
    reliability.add("scripts/torture power", "The power | goes", "2 cuts", "held", runs)
    rows = reliability.rendered(reliability.read(runs)).removeprefix(reliability.HEAD).splitlines()
    date = reliability.read(runs)[0].date
    assert rows == [
        f"| Bits | 8 bits | FAILED | {date} | 1 | 1 | `scripts/torture flips` |",
        f"| The power \\| goes | 2 cuts | held | {date} | 2 | 0 | `scripts/torture power` |",
    ]


def test_the_script_wants_to_be_told_what_to_do() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "reliability.py add" in done.stderr
