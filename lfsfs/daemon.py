"""The daemon: configuration, store, mount and one nursery, from start to clean end."""

import contextlib
import gc
import json
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import trio

from lfsfs import log_file, notify, steps
from lfsfs.alone import try_alone
from lfsfs.config import Config
from lfsfs.daemon_state import State
from lfsfs.errors import InUse, InvalidConfig, LfsfsError, Unavailable
from lfsfs.integrity import gauges, index_pages
from lfsfs.integrity.scrub import Scrub
from lfsfs.mount.mount import Mount
from lfsfs.restarts import Held, Restarts
from lfsfs.steps import Steps
from lfsfs.store import attachment, epochs, policy
from lfsfs.store.layout import DAEMON_LOCK, DAEMON_STATE, open_layout
from lfsfs.store.opening import open_store
from lfsfs.store.rescreening import Rescreening
from lfsfs.store.store import Store
from lfsfs.succession import Predecessor, Program

if TYPE_CHECKING:
    from lfsfs.server.serving import Serving

log = logging.getLogger("lfsfs.daemon")
GARBAGE_OBJECTS = 20_000
"""New objects after which the garbage collector looks for cycles: 700 by default, and a batch makes thousands."""
SWITCH_INTERVAL_SECONDS = (
    0.0005  # the loop gets the interpreter back from a hashing thread sooner than by default
)
CHECK_SECONDS = 10.0  # what the remote tier gets to answer in at the start
OPENING_SECONDS = 0.5  # how often it is told how far the opening of a store is
TELL_SECONDS = 2.0  # how old the line of `systemctl status` may be
LOCK_ATTEMPTS, LOCK_PAUSE_SECONDS = 5, 0.05
SETTLE_SECONDS = 5.0  # what writers get to finish after a signal
FORCED = 1
HANDED_ON = -1  # not an exit status: another daemon serves the store


def run(
    config: Config,
    ready: Callable[[], None],
    program: Program | None = None,
    predecessor: Predecessor | None = None,
    opening: Callable[[Steps], None] | None = None,
) -> int:
    """Mounts and serves until unmounted, or until SIGTERM or SIGINT; an exit status.

    `ready`: the mount answers, and the server listens, as far as the configuration has them. `program`: how this daemon
    was started, for one that may be followed by another. `predecessor`: the daemon that this one follows. `opening`: is
    told every so often, from a thread, how far the opening of the store is.
    """
    _log_to_stderr(config.log_level)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    gc.set_threshold(GARBAGE_OBJECTS, 10, 10)
    _allow_open_files()
    open_layout(config.store, create=not config.mount.read_only)
    notify.notify(notify.status(f"opening {config.store}"))
    try:
        with _alone(config.store, predecessor, read_only=config.mount.read_only) as lock:
            daemon = _Daemon(config, ready, State(config.store), lock, program, predecessor, opening)
            return trio.run(daemon.run)
    except BaseExceptionGroup as group:
        raise _one_of(group) from group


def _allow_open_files() -> None:
    """As many as we may have: each file that is open in the mount is open here."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Daemon:
    """One daemon, from the opening of its store to the end."""

    def __init__(
        self, config: Config, ready: Callable[[], None], state: State, lock: BinaryIO | None,
        program: Program | None, predecessor: Predecessor | None, opening: Callable[[Steps], None] | None,
    ) -> None:  # fmt: skip
        self._config = config
        self._ready = ready
        self._state = state
        self._lock = lock
        self._program = program
        self._predecessor = predecessor
        self._opening = opening
        self._said: dict[str, object] = {"restarts": program is not None}
        self._held: Held | None = None  # until the very end

    async def run(self) -> int:
        """Opens, serves, ends; the exit status."""
        config = self._config
        if config.mountpoint is None and not config.server.listen:
            raise InvalidConfig("there is no address to listen on: give --listen HOST:PORT")
        async with (
            self._opened() as store,
            _remote_of(store, config, self._said),
            _server_of(store, config, self._inherited) as server,
            self._mount_of(store) as mount,
            trio.open_nursery() as nursery,
        ):
            return await self._serve(store, mount, server, nursery)
        return FORCED

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[Store]:
        config = self._config
        opened = open_store(
            config.store,
            durability=config.durability,
            create=True,
            read_only=config.mount.read_only and not os.access(config.store, os.W_OK),
            temp=config.temp,
            remote=(config.s3, config.cache) if config.s3 is not None else None,
            serving=True,
            policy=config.policy,
            key=config.encryption_key,
        )
        async with contextlib.AsyncExitStack() as stack:
            with steps.told(self._tell_opening, OPENING_SECONDS):
                store = await stack.enter_async_context(opened)
            yield store

    def _tell_opening(self, far: Steps) -> None:
        if far.of:
            share = min(100, 100 * far.done // far.of)
            notify.notify(notify.status(f"opening {self._config.store}: {far.what}, {share} %"))
        if self._opening is not None:
            self._opening(far)

    async def _serve(
        self, store: Store, mount: Mount | None, server: "Serving | None", nursery: trio.Nursery
    ) -> int:
        async def end() -> None:
            if server is not None:
                server.end()
            if mount is not None:
                await mount.writers_done(SETTLE_SECONDS)
                mount.stop()

        def stop() -> None:
            if server is not None:
                server.stop()
            if mount is not None:
                mount.stop()

        forced = await nursery.start(_until_signalled, end, stop, nursery.cancel_scope)
        await self._begin(mount, server)
        upkeep = await nursery.start(_upkeep, store, self._config)
        if self._program is not None:
            self._held = Held(self._config, self._state, self._lock, mount, server, upkeep)
            restarts = Restarts(self._held, self._program, end, nursery.cancel_scope)
            await nursery.start(restarts.run)
        nursery.start_soon(self._announce, mount, server)
        nursery.start_soon(_tell_systemd, store, self._state, self._where(mount, server))
        if mount is not None:
            await mount.run()
        if server is not None:
            if mount is not None:
                server.end()
            await server.ended()
        nursery.cancel_scope.cancel()
        self._state.forget()
        if self._state.handed_on:
            return HANDED_ON
        return FORCED if forced.is_set() else 0

    async def _begin(self, mount: Mount | None, server: "Serving | None") -> None:
        """From here on this daemon is the one that serves."""
        predecessor = self._predecessor
        if predecessor is not None and predecessor.hands_over:
            await trio.to_thread.run_sync(predecessor.ready, abandon_on_cancel=True)
            if mount is not None:
                mount.own()
        if server is not None:
            server.begin(str if mount is None else mount.own_metrics)

    @property
    def _inherited(self) -> dict[str, int]:
        return {} if self._predecessor is None else self._predecessor.sockets

    @contextlib.asynccontextmanager
    async def _mount_of(self, store: Store) -> AsyncIterator[Mount | None]:
        """The mount, where the configuration has one; that of the predecessor, where it hands over."""
        config, taken = self._config, None
        if self._predecessor is not None and self._predecessor.hands_over:
            taken = await trio.to_thread.run_sync(self._predecessor.taken, abandon_on_cancel=True)
        if config.mountpoint is None:
            yield None
            return
        mount = Mount(store, config.mountpoint, config.mount, config.permissions, taken=taken)
        async with mount.serving():
            yield mount

    def _where(self, mount: Mount | None, server: "Serving | None") -> str:
        if mount is not None:
            return f"{self._config.store} at {mount.mountpoint}"
        return f"{self._config.store} at {', '.join(server.urls if server is not None else [])}"

    async def _announce(self, mount: Mount | None, server: "Serving | None") -> None:
        """Waits until the mount answers a real read, says so, and goes on asking for the watchdog's sake."""
        said = self._said
        if server is not None:
            said["listen"] = server.urls
        if mount is not None:
            await _answers(mount.mountpoint)
            said |= {"mountpoint": str(mount.mountpoint), "started": mount.started}
            log.info("%s is mounted at %s", self._config.store, mount.mountpoint)
        else:
            said["started"] = time.time_ns()
        if self._predecessor is not None:
            said["follows"] = {"held": self._predecessor.held}
        self._state.say(**said)
        self._ready()
        notify.notify(notify.READY)
        seconds = notify.watchdog_seconds()
        while seconds is not None and mount is not None and not self._state.handed_on:
            await trio.sleep(seconds / 2)
            with trio.move_on_after(seconds):
                await _answers(mount.mountpoint)
                notify.notify(notify.WATCHDOG)


async def _upkeep(
    store: Store, config: Config, task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED
) -> None:
    async with trio.open_nursery() as nursery:
        _start_upkeep(nursery, store, config)
        task_status.started(nursery.cancel_scope)


def _start_upkeep(nursery: trio.Nursery, store: Store, config: Config) -> None:
    """What a daemon does beside serving."""
    nursery.start_soon(log_file.keep_small, config.log_size)
    if not store.index.read_only:
        policy.save(store.layout.path, config.policy)
        if store.screening is not None:
            nursery.start_soon(Rescreening(store, store.screening).run)
        nursery.start_soon(Scrub(store, config.scrub).run)
        nursery.start_soon(index_pages.watch, store.index)
        nursery.start_soon(epochs.answer, store.index)
        nursery.start_soon(store.embeddings.run)
        nursery.start_soon(store.content_types.run)
        if store.write_ahead is not None:
            nursery.start_soon(store.write_ahead.run, store.bursts)
        if store.clerk is not None:
            nursery.start_soon(store.clerk.run)
        if store.remote is not None:
            nursery.start_soon(store.remote.run)


@contextlib.asynccontextmanager
async def _server_of(
    store: Store, config: Config, inherited: Mapping[str, int]
) -> "AsyncIterator[Serving | None]":
    """The HTTP server, where the configuration has one."""
    if not config.server.listen:
        yield None
        return
    from lfsfs.server.access.permissions import create_access
    from lfsfs.server.serving import nobody, serving  # brings the web framework: only who serves needs it

    access = create_access(store.layout.path, config.access, nobody(store, config.server))
    check_beside_mount(config, has_users=access.has_users)
    async with serving(store, config.server, access, inherited) as server:
        yield server


def check_beside_mount(config: Config, *, has_users: bool) -> None:
    """InvalidConfig where a mount would give everybody what the server's users keep apart."""
    if has_users and config.mountpoint is not None and config.mount.sharing != "isolated":
        raise InvalidConfig(
            "the server has users, and the mount is open: whoever uses it can read every object. Mount with --sharing"
            " isolated, or serve from a daemon without a mount (docs/ACCESS.md)"
        )


@contextlib.asynccontextmanager
async def _remote_of(store: Store, config: Config, said: dict[str, object]) -> AsyncIterator[None]:
    """Looks whether the remote tier can be used at all, and has the store remember it.

    What a person must mend is an error now, not later; one that does not answer is said.
    """
    if store.remote is not None:
        try:
            with trio.fail_after(CHECK_SECONDS):
                await store.remote.check(writing=not config.mount.read_only)
        except (Unavailable, trio.TooSlowError) as away:
            log.warning("%s does not answer (%s): working with what is local", store.remote.url, away)
            said["away"] = f"{store.remote.url} does not answer"
        if config.s3 is not None and not store.index.read_only:
            attachment.save(store.layout.path, (config.s3, config.cache))
    yield


async def _tell_systemd(store: Store, state: State, where: str) -> None:
    """Keeps the line of `systemctl status` up to date, where there is somebody to tell."""
    told = ""
    while notify.is_heard() and not state.handed_on:
        line = f"{where}: {await gauges.line(store)}"
        if line != told:
            notify.notify(notify.status(line))
            told = line
        await trio.sleep(TELL_SECONDS)


async def _answers(mountpoint: Path) -> None:
    """A read through the kernel, in a thread: the daemon that serves it must not wait for itself."""
    status = mountpoint / ".lfsfs" / "status"
    await trio.to_thread.run_sync(status.read_bytes, abandon_on_cancel=True)


async def _until_signalled(
    end: Callable[[], Awaitable[None]],
    stop: Callable[[], None],
    everything: trio.CancelScope,
    task_status: trio.TaskStatus[trio.Event],
) -> None:
    """The first SIGTERM or SIGINT ends all when writers and transfers are done; the second at once."""
    forced = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started(forced)
        async with trio.open_nursery() as nursery:
            asked = 0
            async for number in signals:
                asked += 1
                log.info("%s: ending", signal.Signals(number).name)
                notify.notify(notify.STOPPING, notify.status("ending: writers and transfers get a moment"))
                if asked == 1:
                    nursery.start_soon(end)
                else:
                    forced.set()
                    stop()
                    nursery.cancel_scope.cancel()
                    everything.cancel()


@contextlib.contextmanager
def _alone(store: Path, predecessor: Predecessor | None, *, read_only: bool) -> Iterator[BinaryIO | None]:
    """One daemon a store: the lock. InUse, with what the other one says of itself, if there is one."""
    if predecessor is not None:
        with os.fdopen(predecessor.lock, "rb") as lock:
            yield lock
        return
    if read_only and not os.access(store, os.W_OK):
        yield None
        return
    with (store / DAEMON_LOCK).open("a+b") as lock:
        for attempt in range(LOCK_ATTEMPTS):  # whoever asks whether there is a daemon holds it for an instant
            if try_alone(lock):
                break
            if attempt == LOCK_ATTEMPTS - 1:
                said = f"{store} is mounted already{_by_whom(store)}"
                raise InUse(f"{said}: one daemon serves a store")
            time.sleep(LOCK_PAUSE_SECONDS)
        yield lock


def _by_whom(store: Path) -> str:
    try:
        state = json.loads((store / DAEMON_STATE).read_text())
        where = state["mountpoint"] if "mountpoint" in state else ", ".join(state["listen"])
        return f" at {where} (pid {state['pid']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


class _JournalFormatter(logging.Formatter):
    """Each line with the priority that systemd reads from it (sd-daemon(3))."""

    _PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for level, number in self._PRIORITIES if record.levelno >= level), 7)
        return f"<{priority}>{super().format(record)}"


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler()
    if os.environ.get("JOURNAL_STREAM"):
        handler.setFormatter(_JournalFormatter("%(name)s: %(message)s"))
    else:
        formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        formatter.converter = time.gmtime
        handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("botocore", "boto3", "urllib3"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))


def _one_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that a person should read: the first on purpose, else the first."""
    flat: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        found = pending.pop(0)
        if isinstance(found, BaseExceptionGroup):
            pending[:0] = found.exceptions
        else:
            flat.append(found)
    return next((found for found in flat if isinstance(found, LfsfsError)), flat[0])
