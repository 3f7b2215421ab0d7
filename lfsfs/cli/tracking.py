"""embed track and untrack: a collection in a work tree, at a mountpoint of its own; and the process that serves it."""

import argparse
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from lfsfs import mounts
from lfsfs.cli import background, output, takedown
from lfsfs.cli.stores import chosen_store
from lfsfs.errors import InUse, InvalidConfig, LfsfsError, NotFound, Refused
from lfsfs.git import tracking
from lfsfs.git.tracking import WorkTree
from lfsfs.mounts import MountEntry
from lfsfs.store import views
from lfsfs.store.layout import is_store
from lfsfs.store.views import View

DIRECTORY = "embeddings"
VIEW_COMMAND = "view"
WAIT_SECONDS = 20.0  # how long a mount waits for its views, so that git does not miss their files
BRING_SECONDS = 100.0  # what they get to be there after that


def add_actions(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    track = actions.add_parser(
        "track",
        help="show a collection in a work tree, where git-lfs tracks its npz files",
        description="Mounts the collection at embeddings/ of a work tree, writes the rule into .gitattributes, and"
        " remembers it: the next mount of the store brings it back. Again: brings it back now.",
    )
    track.add_argument("repository", metavar="REPO", nargs="?", type=Path, default=Path())
    _place(track)
    track.add_argument("--collection", metavar="NAME", default="default", help="default: default")
    track.add_argument("--read-only", action="store_true", help="the work tree cannot change the collection")
    track.add_argument("--all", action="store_true", help="bring back all that are tracked in the store")
    track.set_defaults(run=run_track)

    untrack = actions.add_parser(
        "untrack",
        help="undo that",
        description="Unmounts the collection and forgets it. The rule in .gitattributes goes if git tracks none of"
        " the files. The vectors stay in the store.",
    )
    untrack.add_argument("repository", metavar="REPO", nargs="?", type=Path, default=Path())
    _place(untrack)
    untrack.set_defaults(run=run_untrack)


def _place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--path", metavar="DIR", default=DIRECTORY, help="in the work tree; default: embeddings"
    )
    parser.add_argument(
        "--store", metavar="STORE", type=Path, help="default: that of the clone, or the only one"
    )


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command of the process that serves a view: nobody else calls it, so the help does not name it."""
    view = commands.add_parser(VIEW_COMMAND)
    view.add_argument("store", type=Path)
    view.add_argument("mountpoint", type=Path)
    view.add_argument("--collection", required=True)
    view.add_argument("--read-only", action="store_true")
    view.add_argument("--foreground", action="store_true")
    view.add_argument("--ready-fd", type=int)
    view.set_defaults(run=run_view)


def run_track(arguments: argparse.Namespace) -> int:
    """Tracks, or tracks again."""
    if arguments.all:
        return _track_all(chosen_store(arguments.store))
    tree = tracking.find_work_tree(arguments.repository, arguments.path)
    store = Path(os.path.realpath(_store_of(tree, arguments.store)))
    if not is_store(store):
        raise NotFound(f"no store at {store}")
    view = View(tree.mountpoint, arguments.collection, arguments.read_only, os.getuid())
    mounted = start(store, view)
    views.add(store, view)
    written = tracking.add_rule(tree)
    output.line(
        f"{tree.mountpoint} {'shows' if mounted else 'shows already'} the collection {view.collection}"
        + (f"; {tracking.ATTRIBUTES} has its rule now" if written else "")
    )
    _advise(tree, store)
    return output.DONE


def _store_of(tree: WorkTree, given: Path | None) -> Path:
    """The one given, or remembered for this place, or where the clone keeps its objects, or the only one."""
    if given is None:
        shown = _mounted_at(tree.mountpoint)
        if shown is not None:
            return shown.store
        storage = tree.storage()
        mount = mounts.mount_of(Path(storage)) if storage and Path(storage).is_absolute() else None
        if mount is not None:
            return mount.store
    return chosen_store(given)


def _advise(tree: WorkTree, store: Path) -> None:
    """What git-lfs would do otherwise than the user may expect."""
    if not tree.has_filter():
        output.note("git does not know git-lfs yet, and would store the files themselves: `git lfs install`")
    storage = tree.storage()
    mount = mounts.mount_of(Path(storage)) if storage and Path(storage).is_absolute() else None
    if mount is None or mount.store != store:
        output.note(
            f"this clone does not keep its objects in {store}: git-lfs makes a copy of each file that is added."
            " `lfsfs attach` changes that"
        )


def start(store: Path, view: View) -> bool:
    """Mounts a view in a process of its own; whether it was not mounted yet. Returns when it answers."""
    _clear_dead(view.mountpoint)
    shown = _mounted_at(view.mountpoint)
    if shown is not None:
        present = next((one for one in views.load(shown.store) if one.mountpoint == view.mountpoint), None)
        if shown.store != store or (present is not None and present != view):
            raise InUse(f"{view.mountpoint} shows something else: `lfsfs embed untrack` first")
        return False
    made = _check_place(view.mountpoint)
    options = ["--collection", view.collection, *(["--read-only"] if view.read_only else [])]
    try:
        background.start(VIEW_COMMAND, [*options, str(store), str(view.mountpoint)], store)
    except BaseException:
        if made:
            with suppress(OSError):
                view.mountpoint.rmdir()
        raise
    return True


def _check_place(mountpoint: Path) -> bool:
    """Whether the directory was made. Refused where it is not empty."""
    if not mountpoint.parent.is_dir():
        raise NotFound(f"there is no directory {mountpoint.parent}")
    try:
        mountpoint.mkdir()
        return True
    except FileExistsError:
        pass
    if mountpoint.is_symlink() or not mountpoint.is_dir():
        raise Refused(f"{mountpoint} is not a directory")
    present = sorted(os.listdir(mountpoint))
    if present:
        raise Refused(
            f"{mountpoint} is not empty: it holds {present[0]!r}. `lfsfs embed import {mountpoint}` takes npz files"
            " into the store; then remove them"
        )
    return False


def _track_all(store: Path) -> int:
    failed = 0
    for view in views.load(store):
        if view.uid != os.getuid():
            output.note(f"{view.mountpoint} belongs to the user {view.uid}, who has to track it")
            continue
        try:
            start(store, view)
            output.line(f"{view.mountpoint} shows the collection {view.collection}")
        except (LfsfsError, OSError) as error:
            failed = output.error(error)
    return failed or output.DONE


def run_untrack(arguments: argparse.Namespace) -> int:
    """Undoes it."""
    tree = tracking.find_work_tree(arguments.repository, arguments.path)
    shown = _mounted_at(tree.mountpoint)
    store = shown.store if shown is not None else Path(os.path.realpath(_store_of(tree, arguments.store)))
    if shown is not None:
        _unmount(tree.mountpoint)
    known = views.remove(store, tree.mountpoint)
    if shown is None and not known:
        output.line("not tracked: nothing to do")
        return output.DONE
    with suppress(OSError):
        tree.mountpoint.rmdir()
    committed = tree.has_tracked_files()
    removed = not committed and tracking.remove_rule(tree)
    output.line(f"{tree.mountpoint} shows no collection any more" + ("; its rule is gone" if removed else ""))
    if committed:
        output.note(
            f"git tracks files there, so {tracking.ATTRIBUTES} keeps the rule:"
            f" `git checkout -- {tree.directory}` writes them as plain files"
        )
    return output.DONE


def _unmount(mountpoint: Path) -> None:
    if mounts.is_dead(mountpoint):
        _clear_dead(mountpoint)
        return
    said = takedown.fusermount("-u", mountpoint)
    if said:
        raise InUse(f"cannot unmount {mountpoint}: {said}")


def _clear_dead(mountpoint: Path) -> None:
    """Takes away what a killed process left there."""
    while _mounted_at(mountpoint) is not None and mounts.is_dead(mountpoint):
        said = takedown.fusermount("-uz", mountpoint)
        if said:
            raise Refused(f"cannot unmount {mountpoint}, which is dead: {said}")


def _mounted_at(mountpoint: Path) -> MountEntry | None:
    return next((entry for entry in mounts.views() if entry.mountpoint == mountpoint), None)


# With the mount of the store.


def bring_back(store: Path, done: Callable[[], None]) -> threading.Thread | None:
    """Mounts what is tracked in the store, in a thread. What cannot be is told in the log.

    `done` is called when all is there, or after WAIT_SECONDS: as long as it is not, git takes the files for deleted.
    """
    if not (store / views.VIEWS_FILE).exists():
        done()
        return None
    command = [sys.executable, "-P", "-m", "lfsfs.cli.main", "embed", "track", "--all", "--store", str(store)]

    def bring() -> None:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
            try:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(WAIT_SECONDS)
                done()
                process.wait(BRING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    bringing = threading.Thread(target=bring)
    bringing.start()
    return bringing


def take_away(store: Path, bringing: threading.Thread | None) -> None:
    """Unmounts what is tracked in the store: now, or where somebody uses it when that ends.

    `bringing`: what brings it back, perhaps still.
    """
    if bringing is not None:
        bringing.join()
    for entry in mounts.views():
        if entry.store == store and takedown.fusermount("-u", entry.mountpoint):
            takedown.fusermount("-uz", entry.mountpoint)


# The process of a view.


def run_view(arguments: argparse.Namespace) -> int:
    """Serves a view until it is unmounted."""
    # The one import inside a function: it brings the mount, and every other command starts quicker without.
    from lfsfs.config import MountOptions
    from lfsfs.mount.view import run

    if not arguments.mountpoint.is_absolute():
        raise InvalidConfig("the mountpoint of a view is an absolute path")
    parent = background.Parent(arguments.ready_fd)
    os.chdir("/")  # it keeps nobody's directory busy
    try:
        options = MountOptions(read_only=arguments.read_only)
        run(arguments.store, arguments.collection, arguments.mountpoint, options, parent.ready)
    except BaseException as error:
        parent.failed(error)
        raise
    return output.DONE
