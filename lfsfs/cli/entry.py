"""The command `lfsfs`, from its first moment: until everything is loaded, Ctrl-C ends it without a word.

What loads is Python's own, and would say where it was. From `main` on, Ctrl-C is what each command makes of it.
"""

import signal

_loading = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # or somebody wants it otherwise
if _loading:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from lfsfs.cli.main import main as run  # noqa: E402 - after that


def main() -> int:
    """Runs one command; its exit status."""
    if _loading:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run()
