"""Probe: what an S3 server can do, found out by doing it, and what that means for lfsfs.

Servers say little about themselves, and many accept a header and ignore it: each probe does the thing, and its
opposite where that must be refused.
"""

import base64
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import trio
from botocore import exceptions as boto

from lfsfs.config import S3Options
from lfsfs.errors import LfsfsError
from lfsfs.tiers.s3.bench import RACERS, Bench, said
from lfsfs.tiers.s3.client import Client, make
from lfsfs.tiers.s3.failures import status, translated
from lfsfs.tiers.s3.tier import S3Tier, open_s3, server_time

Verdict = Literal["yes", "no"]
ROUNDS = 3  # of the race
SKEW_SECONDS = 60.0  # servers refuse requests from 15 minutes on
PART = b"0123456789abcdef" * (5 << 16)  # 5 MiB
CONTENT = b"0123456789"
T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One line of the table. `detail` is what was seen; `meaning`, where all is not well, what to make of it."""

    name: str
    verdict: Verdict
    detail: str = ""
    meaning: str = ""
    needed: bool = False
    """Without it lfsfs cannot keep objects there."""

    @property
    def fatal(self) -> bool:
        return self.needed and self.verdict == "no"


@dataclass
class Report:
    """All that was found, and what follows from it."""

    address: str
    endpoint: str
    server: str = ""
    """As it calls itself."""
    findings: list[Finding] = field(default_factory=list)
    boto: dict[str, str] = field(default_factory=dict)
    """The options of boto3 that lfsfs uses with this server."""

    @property
    def usable(self) -> bool:
        return not any(finding.fatal for finding in self.findings)

    def verdict(self, name: str) -> Verdict | None:
        return next((finding.verdict for finding in self.findings if finding.name == name), None)


@dataclass(frozen=True)
class Probe:
    """A thing to try: `run` returns the verdict and a detail. boto3's ClientError from it is a "no"."""

    name: str
    run: Callable[[Bench], tuple[Verdict, str]]
    meaning: str
    needed: bool = False


async def examine(options: S3Options, told: Callable[[Finding], None]) -> Report:
    """Tries everything; each finding is `told` as it comes. What was made in the bucket is gone afterwards.

    A server that cannot be reached or used is a finding too, and then the last.
    """
    async with open_s3(options) as tier:
        report = Report(str(options.url), tier.client.where.endpoint)

        def found(finding: Finding) -> None:
            report.findings.append(finding)
            told(finding)

        try:
            await tier.check()
        except LfsfsError as error:
            found(Finding("reachable", "no", "", str(error), needed=True))
            return report
        bench = Bench(tier.client, tier.keys.root)
        report.server = await _in_thread(bench, _server_name)
        try:
            for probe in PROBES:
                found(await _in_thread(bench, _tried, probe))
                if report.verdict("writes") == "no":
                    return report
        finally:
            with trio.CancelScope(shield=True):
                await _in_thread(bench, _swept)
        report.boto = _boto_options(tier.client, report)
    return report


async def grants_names(tier: S3Tier) -> bool:
    """Whether of machines that write one new name at once exactly one is told that it did."""
    return await _holds(tier, _conditional, _atomic)


async def _holds(tier: S3Tier, *tries: Callable[[Bench], tuple[Verdict, str]]) -> bool:
    bench = Bench(tier.client, tier.keys.root)
    try:
        return all([(await _in_thread(bench, _tried, Probe("", one, ""))).verdict == "yes" for one in tries])
    finally:
        with trio.CancelScope(shield=True):
            await _in_thread(bench, _swept)


async def _in_thread(bench: Bench, call: Callable[..., T], *arguments: object) -> T:
    def run() -> T:
        with translated("the doctor's test failed", bench.client.where):
            return call(bench, *arguments)

    return await trio.to_thread.run_sync(run)


def _tried(bench: Bench, probe: Probe) -> Finding:
    try:
        verdict, detail = probe.run(bench)
    except boto.ClientError as error:
        verdict, detail = "no", said(error)
    except boto.BotoCoreError as error:
        verdict, detail = "no", type(error).__name__
    return Finding(probe.name, verdict, detail, "" if verdict == "yes" else probe.meaning, probe.needed)


def _swept(bench: Bench) -> None:
    try:
        bench.sweep()
    except boto.ClientError as error:
        if status(error) != 403:  # a read-only bucket: nothing was made
            raise


def _server_name(bench: Bench) -> str:
    answer = bench.boto.list_objects_v2(**bench.place, Prefix=bench.root, MaxKeys=1)
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    return str(headers.get("server", "")) or (
        "Ceph or another that does not say" if _is_ceph(headers) else ""
    )


def _is_ceph(headers: dict[str, str]) -> bool:
    return headers.get("x-amz-request-id", "").startswith("tx00000")


def _boto_options(client: Client, report: Report) -> dict[str, str]:
    checksums = "x-amz-checksum-sha256 of each small object"
    guard = "the signature, which covers the bytes" if client.plain else "Content-MD5"
    conditional = report.verdict("If-None-Match of a put")
    return {
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "addressing": client.options.addressing,
        "guard against damage": f"{guard}{f' and {checksums}' if report.verdict('SHA-256') == 'yes' else ''}",
        "commits": "If-None-Match: *"
        if conditional == "yes"
        else "unconditional: the same bytes are written again",
    }


# The probes. Each runs in a thread.


def _clock(bench: Bench) -> tuple[Verdict, str]:
    before = time.time()
    answer = bench.boto.list_objects_v2(**bench.place, Prefix=bench.root, MaxKeys=1)
    after = time.time()
    theirs = server_time(answer).timestamp()  # whole seconds
    apart = max(0.0, before - (theirs + 1), theirs - after)
    detail = f"answers in {1000 * (after - before):.0f} ms; clocks {apart:.0f} s apart"
    return ("yes" if apart <= SKEW_SECONDS else "no"), detail


def _writes(bench: Bench) -> tuple[Verdict, str]:
    key = bench.key()
    bench.put(key)
    if bench.get(key)[1] != CONTENT:
        return "no", "what was put does not come back"
    bench.boto.delete_object(**bench.place, Key=key)
    bench.boto.delete_object(**bench.place, Key=key)  # absent is success
    return ("no", "a deleted key is still there") if bench.exists(key) else ("yes", "put, get, delete")


def _ranges(bench: Bench) -> tuple[Verdict, str]:
    key = bench.key()
    bench.put(key)
    for wanted, expected in (("bytes=2-4", b"234"), ("bytes=7-", b"789"), ("bytes=8-99", b"89")):
        if bench.get(key, Range=wanted) != (206, expected):
            return "no", f"{wanted} is not answered with 206 and these bytes"
    try:
        bench.get(key, Range="bytes=10-19")
    except boto.ClientError as error:
        if status(error) == 416:
            return "yes", "206; 416 behind the end"
        raise
    return "no", "a range behind the end is not answered with 416"


def _listing(bench: Bench) -> tuple[Verdict, str]:
    start = bench.key("listing/")
    keys = sorted(
        (f"{start}{name}" for name in ("B", "a-b", "a/b", "a/b-c", "a0", "b b", "ä", "z+%")), key=str.encode
    )
    for key in keys:
        bench.put(key, b"")
    found = [key for key in bench.listed() if key.startswith(start)]
    if found != keys:
        return "no", "keys are missing, changed, or not in the order of their bytes"
    for number, key in enumerate(keys):
        page = bench.listed(StartAfter=key, MaxKeys=2)
        if page[: len(keys) - number - 1] != keys[number + 1 : number + 3]:
            return "no", "StartAfter and MaxKeys are not followed"
    return "yes", "in the order of bytes, by pages"


def _multipart(bench: Bench) -> tuple[Verdict, str]:
    key = bench.key()
    bench.parts(key, [PART, b"the rest"])
    edge = f"bytes={len(PART) - 3}-{len(PART) + 2}"
    if bench.get(key, Range=edge) != (206, PART[-3:] + b"the"):
        return "no", "the parts do not come back as one object"
    return "yes", "two parts, read across their border"


def _abandoned(bench: Bench) -> tuple[Verdict, str]:
    key = bench.key()
    upload = bench.begin(key)
    bench.part(key, upload, 1, CONTENT)
    uploads = bench.boto.list_multipart_uploads(**bench.place, Prefix=bench.root).get("Uploads", [])
    bench.abort(key, upload)
    if [(item["Key"], item["UploadId"]) for item in uploads] != [(key, upload)]:
        return "no", "not listed"
    left = bench.boto.list_multipart_uploads(**bench.place, Prefix=bench.root).get("Uploads", [])
    return ("no", "still listed after the abort") if left else ("yes", "listed, and gone after the abort")


def _conditional(bench: Bench) -> tuple[Verdict, str]:
    key = bench.key()
    bench.put(key, b"first", IfNoneMatch="*")
    try:
        bench.put(key, b"second", IfNoneMatch="*")
    except boto.ClientError as error:
        if status(error) == 412:
            return "yes", "412 where the key exists"
        raise
    return "no", "ignored"


def _atomic(bench: Bench) -> tuple[Verdict, str]:
    winners = []
    for _ in range(ROUNDS):
        key = bench.key()
        won = bench.race(key)
        winners.append(len(won))
        if len(won) == 1 and bench.get(key)[1] != won[0]:
            return "no", "the winner's bytes are not there"
    detail = f"{RACERS} at once, {ROUNDS} times: winners {', '.join(map(str, winners))}"
    return ("yes" if set(winners) == {1} else "no"), detail


def _conditional_complete(bench: Bench) -> tuple[Verdict, str]:
    key = bench.key()
    bench.put(key)
    try:
        bench.parts(key, [CONTENT], IfNoneMatch="*")
    except boto.ClientError as error:
        if status(error) == 412:
            return "yes", "412 where the key exists"
        raise
    return "no", "ignored"


def _sha256(bench: Bench) -> tuple[Verdict, str]:
    right, wrong = (base64.b64encode(hashlib.sha256(one).digest()).decode() for one in (CONTENT, b""))
    key = bench.key()
    bench.put(key, CONTENT, ChecksumSHA256=right)
    kept = bench.head(key, ChecksumMode="ENABLED").get("ChecksumSHA256") == right
    refused = bench.refused(bench.key(), CONTENT, ChecksumSHA256=wrong)
    if kept and refused:
        return "yes", "a wrong one is refused, a right one is kept"
    if refused:
        return "yes", "a wrong one is refused"
    return "no", "ignored"


def _md5(bench: Bench) -> tuple[Verdict, str]:
    wrong = base64.b64encode(hashlib.md5(b"", usedforsecurity=False).digest()).decode()
    if bench.refused(bench.key(), CONTENT, ContentMD5=wrong):
        return "yes", "a wrong one is refused"
    return "no", "ignored"


def _damage(bench: Bench) -> tuple[Verdict, str]:
    """As lfsfs sends them: signed over http, with Content-MD5 over TLS."""
    md5 = base64.b64encode(hashlib.md5(CONTENT, usedforsecurity=False).digest()).decode()
    guard = {} if bench.client.plain else {"ContentMD5": md5}
    key = bench.key()
    with bench.damaging():
        refused = bench.refused(key, CONTENT, **guard)
    if not refused and bench.get(key)[1] == CONTENT:
        return "no", "could not be tried: the bytes arrived whole"
    return ("yes", "refused") if refused else ("no", "stored all the same")


def _defaults(bench: Bench) -> tuple[Verdict, str]:
    """boto3 as it comes: since 1.36 it adds checksums, behind the body (aws-chunked) over TLS."""
    client = make(bench.client.options, request_checksum_calculation="when_supported")
    try:
        key = bench.key()
        client.put_object(**bench.place, Key=key, Body=CONTENT, **bench.client.sealing["write"])
    finally:
        client.close()
    return (
        ("yes", "taken") if bench.get(key)[1] == CONTENT else ("no", "stored with the framing of the upload")
    )


def _metadata(bench: Bench) -> tuple[Verdict, str]:
    key = bench.key()
    bench.put(key, CONTENT, Metadata={"lfsfs-write": "one"})
    return (
        ("yes", "kept") if bench.head(key).get("Metadata", {}).get("lfsfs-write") == "one" else ("no", "lost")
    )


def _batch_delete(bench: Bench) -> tuple[Verdict, str]:
    keys = [bench.key() for _ in range(3)]
    for key in keys:
        bench.put(key)
    bench.boto.delete_objects(**bench.place, Delete={"Objects": [{"Key": key} for key in keys]})
    return ("no", "keys are still there") if any(map(bench.exists, keys)) else ("yes", "three keys at once")


_GUARD = "harmless as long as damage is noticed some other way: see below"
PROBES = (
    Probe(
        "clock",
        _clock,
        "set this machine's clock (timedatectl, chronyc makestep): servers refuse requests when 15 minutes are between",
    ),
    Probe(
        "writes",
        _writes,
        "the bucket is read-only for these credentials: give them s3:PutObject, s3:GetObject and s3:DeleteObject",
        needed=True,
    ),
    Probe("ranges", _ranges, "lfsfs reads parts of objects: it cannot use this server", needed=True),
    Probe(
        "listing",
        _listing,
        "lfsfs cannot tell which objects are there: it cannot use this server",
        needed=True,
    ),
    Probe("multipart upload", _multipart, "objects above part_size cannot be stored", needed=True),
    Probe(
        "abandoned uploads",
        _abandoned,
        "they cannot be found: let the bucket's lifecycle abort incomplete multipart uploads after some days",
    ),
    Probe(
        "If-None-Match of a put", _conditional, "two machines may both write a name that only one should get"
    ),
    Probe(
        "… with one winner",
        _atomic,
        "two machines that write the same new name at once may both succeed: let only one start at a time",
    ),
    Probe(
        "If-None-Match of a complete",
        _conditional_complete,
        "harmless: an object that exists may be replaced by the same bytes",
    ),
    Probe("SHA-256", _sha256, _GUARD),
    Probe("Content-MD5", _md5, _GUARD),
    Probe(
        "damage is noticed",
        _damage,
        "the server stores uploads that were damaged on their way; lfsfs finds it when it reads them",
    ),
    Probe("boto3's own checksums", _defaults, "harmless: lfsfs switches them off; other programs must, too"),
    Probe(
        "metadata",
        _metadata,
        "after a lost answer, lfsfs cannot tell its own new name from somebody else's, and takes it for the other's",
    ),
    Probe("delete of many", _batch_delete, "harmless: lfsfs deletes one by one"),
)
