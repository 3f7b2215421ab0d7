"""Scanners: what looks into an object and says whether it may be one. Knows nothing of stores."""

from lfsfs.config_policy import ScanOptions
from lfsfs.scan.clamd import Clamd
from lfsfs.scan.command import Command
from lfsfs.scan.scanner import Scanner as Scanner
from lfsfs.scan.scanner import Subject as Subject


def scanner_of(options: ScanOptions) -> Scanner | None:
    """The configured one; None where there is none."""
    if options.clamd is not None:
        return Clamd(options.clamd)
    return Command(options.command) if options.command else None
