"""Examining: what `lfsfs doctor` says of a machine, and what it mends there."""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import trio

from lfsfs.cli import known, machine, output
from lfsfs.cli.machine import Finding
from lfsfs.errors import InvalidConfig, LfsfsError
from lfsfs.store import attachment

S3_SECONDS = 20.0
MARKS: dict[machine.Verdict, tuple[str, output.Style]] = {
    "ok": ("ok", "good"), "note": ("note", "warn"), "no": ("FAILS", "bad"),
}  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Looks, tells, and mends where told to."""
    if arguments.yes and not arguments.fix:
        raise InvalidConfig("--yes goes with --fix")
    stores = known.stores()
    findings = []
    for finding in [*machine.look(stores), *_buckets(stores)]:
        findings.append(finding)
        if not arguments.json:
            tell(finding)
    if arguments.fix:
        _mend([finding for finding in findings if finding.verdict != "ok"], ask=not arguments.yes)
        findings = [*machine.look(stores), *_buckets(stores)]
    failing = [finding for finding in findings if finding.verdict == "no"]
    if arguments.json:
        output.as_json({"ready": not failing, "findings": [asdict(finding) for finding in findings]})
    else:
        _conclude(failing, fixed=arguments.fix)
    return output.FAILED if failing else output.DONE


def tell(finding: Finding) -> None:
    """A line, and where something is amiss another: what to do."""
    mark, style = MARKS[finding.verdict]
    output.line(f"{finding.name}: {finding.detail}", mark=f"  {mark:<7}", style=style)
    if finding.remedy:
        output.line(f"{'':9}{remedy(finding)}")


def remedy(finding: Finding) -> str:
    """What to do, with the command that does it."""
    if not finding.fix:
        return finding.remedy
    return f"{finding.remedy}: {shlex.join(_command(finding))}"


def _conclude(failing: list[Finding], *, fixed: bool) -> None:
    output.line()
    if not failing:
        output.line("this machine is ready: lfsfs mount STORE MNT")
        return
    names = ", ".join(finding.name for finding in failing)
    how = (
        ""
        if fixed or not any(finding.fix for finding in failing)
        else "; `lfsfs doctor --fix` mends what it can"
    )
    output.line(f"{names}: see what FAILS above{how}")


def _buckets(stores: list[Path]) -> list[Finding]:
    """Whether the buckets of the stores answer."""
    found = []
    for store in stores:
        try:
            attached = attachment.load(store)
        except (LfsfsError, OSError) as error:
            found.append(Finding(f"S3 of {store}", "note", output.told(error), "see who may read the store"))
            continue
        if attached is not None:
            found.append(_bucket(store, attached))
    return found


def _bucket(store: Path, attached: attachment.Attachment) -> Finding:
    options = attached[0]
    name = f"{options.url} of {store}"

    async def check() -> None:
        from lfsfs.tiers.bucket import open_bucket  # brings boto3

        with trio.fail_after(S3_SECONDS):
            async with open_bucket(options) as tier:
                await tier.check()

    try:
        trio.run(check)
    except (LfsfsError, OSError, trio.TooSlowError) as error:
        said = (
            output.told(error)
            if not isinstance(error, trio.TooSlowError)
            else f"no answer in {S3_SECONDS:.0f} s"
        )
        where = f" --s3-endpoint {options.endpoint}" if options.endpoint else ""
        return Finding(name, "no", said, f"lfsfs doctor {options.url}{where} says more")
    return Finding(name, "ok", "answers")


def _mend(broken: list[Finding], *, ask: bool) -> None:
    """Runs the commands that mend, each once."""
    done: set[tuple[str, ...]] = set()
    for finding in broken:
        if not finding.fix or finding.fix in done:
            continue
        done.add(finding.fix)
        command = _command(finding)
        if ask and not _agreed(f"{finding.name}: run `{shlex.join(command)}`?"):
            continue
        output.note(f"running {shlex.join(command)}")
        try:
            ended = subprocess.run(command, stdout=sys.stderr, check=False)
        except OSError as error:
            output.note(f"{finding.name}: {output.told(error)}")
        else:
            if ended.returncode != 0:
                output.note(f"{finding.name}: the command ended with {ended.returncode}")


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise InvalidConfig("there is no terminal to ask at: give --yes")
    sys.stderr.write(f"{output.safe(question)} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _command(finding: Finding) -> tuple[str, ...]:
    """As this user has to type it."""
    if not finding.for_root or os.geteuid() == 0:
        return finding.fix
    return ("sudo", *finding.fix) if shutil.which("sudo") else ("su", "-c", shlex.join(finding.fix))
