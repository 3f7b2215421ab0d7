"""What a service tells systemd (sd_notify(3)): datagrams to the socket that NOTIFY_SOCKET names.

Without that variable every call does nothing, so callers need not ask whether systemd is there.
"""

import os
import socket
import time

READY = "READY=1"
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"
_MICROSECONDS = 1_000_000


def is_heard() -> bool:
    """Whether somebody wants to be told."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def notify(*assignments: str) -> bool:
    """Sends assignments such as READY, or `status("12 objects")`, in one message. Whether somebody was told.

    A socket that is gone or full is no reason to end a daemon: then the answer is False.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # the abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        ) as sender:
            sender.connect(address)
            sender.sendall(os.fsencode("\n".join(assignments)))
    except OSError:
        return False
    return True


def reloading() -> bool:
    """Says that a restart is under way, until READY comes, from this process or the one that follows it."""
    return notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def status(text: str) -> str:
    """The assignment of one line for `systemctl status`."""
    return "STATUS=" + text.replace("\n", " ")


def watchdog_seconds() -> float | None:
    """How long systemd waits between two WATCHDOG before it ends us; None: it does not watch this process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        microseconds = int(os.environ.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return microseconds / _MICROSECONDS if microseconds > 0 else None
