"""What a daemon says of itself beside its store, for those who look for it: pid, mountpoint, addresses, since when."""

import contextlib
import json
import os
from pathlib import Path

from lfsfs.store.layout import DAEMON_STATE


class State:
    """Of this process. `handed_on`: another daemon says it from now on."""

    def __init__(self, store: Path) -> None:
        self._file = store / DAEMON_STATE
        self._said: dict[str, object] = {"pid": os.getpid()}
        self.handed_on = False

    def say(self, **values: object) -> None:
        """This too; nothing where the store takes no writes."""
        self._said |= values
        if os.access(self._file.parent, os.W_OK) and not self.handed_on:
            fresh = self._file.with_name(f"{self._file.name}.{os.getpid()}")
            fresh.write_text(json.dumps(self._said))
            fresh.replace(self._file)  # whoever looks finds it whole

    def forget(self) -> None:
        """There is no daemon any more."""
        if not self.handed_on:
            with contextlib.suppress(FileNotFoundError):
                self._file.unlink()
