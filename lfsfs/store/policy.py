"""policy.toml: the limits, quotas and scanner of the store's last daemon, for every other process that writes."""

import os
from contextlib import suppress
from pathlib import Path

from lfsfs import durable
from lfsfs.config_file import policy_of, read_file, render_policy
from lfsfs.config_policy import Policy
from lfsfs.errors import InvalidConfig

POLICY_FILE = "policy.toml"


def load(store: Path) -> Policy:
    """What the last daemon was told; no limits where it was told nothing. InvalidConfig if damaged."""
    file = store / POLICY_FILE
    return policy_of(read_file(file)) if file.exists() else Policy()


def save(store: Path, policy: Policy) -> None:
    """Durably, and only where it says something else than the file."""
    file = store / POLICY_FILE
    with suppress(InvalidConfig):  # one that is damaged is written anew
        if policy == load(store):
            return
    fresh = store / f"{POLICY_FILE}.new"
    fd = os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o644)
    with open(fd, "w") as opened:
        opened.write("# Written by the daemon: change its configuration.\n" + render_policy(policy))
        opened.flush()
        durable.fsync(fd, "fsync-policy-file")
    durable.rename(fresh, file, "rename-policy-file")
    durable.fsync_path(store, "fsync-store")
