"""mount(8), umount(8) and /etc/fstab with the type fuse.lfsfs, in a mount namespace of the test's own.

There, and there only, our helper is in the folder where mount(8) looks for it.
"""

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import forking
import pytest
from gitlfs.mounted import processes_that_name, within

from lfsfs.cli.fstab import become, read_options
from lfsfs.errors import InvalidConfig

COMMANDS = Path(sys.executable).parent
AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]
HELPER = "mount.fuse.lfsfs"
HELPERS = "/usr/sbin"  # /sbin leads there
FAILED, USAGE = 32, 1  # mount(8)
BIND = 'mount -t overlay overlay -o "lowerdir=$1:$2" "$2" && echo ready && exec sleep infinity'


class Machine:
    """A place to run mount in: a namespace, and a folder with all that the test makes."""

    def __init__(self, folder: Path, pid: int) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.mnt = folder / "mnt"
        self.mnt.mkdir()
        self._pid = pid

    def run(self, *command: str | Path, status: int = 0) -> str:
        """What it says, on both outputs; its exit status is this one."""
        done = subprocess.run(
            [*AS_ROOT, "nsenter", "--mount", f"--target={self._pid}", "--", *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout
        return done.stdout

    def mount(self, *options: str, status: int = 0) -> str:
        return self.run("mount", "-t", "fuse.lfsfs", self.store, self.mnt, *options, status=status)

    def daemon_ended(self) -> bool:
        return within(10, lambda: not [line for line in processes_that_name(self.store) if "lfsfs" in line])


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    helpers = tmp_path / "helpers"
    helpers.mkdir()
    (helpers / HELPER).symlink_to(COMMANDS / HELPER)
    (tmp_path / "work").mkdir(mode=0o755)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)  # somebody else mounts below it
    shell = subprocess.Popen(
        [*AS_ROOT, "unshare", "--mount", "sh", "-c", BIND, "sh", str(helpers), HELPERS],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == "ready\n"
        machine = Machine(tmp_path / "work", shell.pid)
        try:
            yield machine
        finally:
            subprocess.run(
                [*AS_ROOT, "nsenter", "--mount", f"--target={shell.pid}", "umount", "-q", machine.mnt],
                timeout=60, check=False,
            )  # fmt: skip
            shell.kill()
    assert machine.daemon_ended()


@pytest.mark.mount
@pytest.mark.timeout(120)
class TestMount:
    def test_what_mount_has_mounted_answers_and_after_umount_it_can_be_mounted_at_once(
        self, machine: Machine
    ) -> None:
        machine.mount("-o", "allow_other,umask=000,noexec,durability=fast")
        machine.run("sh", "-c", f"echo a > {machine.mnt}/incoming/a && cat {machine.mnt}/incoming/a")
        line = machine.run("findmnt", "-n", "-o", "FSTYPE,SOURCE,OPTIONS", machine.mnt)
        assert line.split()[:2] == ["fuse.lfsfs", str(machine.store)]
        assert {"allow_other", "noexec", "nosuid", "nodev", "rw"} <= set(line.split()[2].split(","))
        for _ in range(3):
            machine.run("umount", machine.mnt)
            machine.mount("-v", "-n")
        assert machine.run("cat", machine.mnt / "incoming" / "a") == "a\n"

    def test_a_line_of_fstab_is_enough(self, machine: Machine) -> None:
        table = machine.folder / "fstab"
        table.write_text(
            f"{machine.store} {machine.mnt} fuse.lfsfs defaults,_netdev,nofail,x-systemd.automount,"
            "scrub_rate=off,ro 0 0\n"
        )
        machine.run("mount", "-t", "fuse.lfsfs", machine.store, machine.mnt)
        machine.run("umount", machine.mnt)
        machine.run("mount", "-T", table, machine.mnt)
        said = machine.run("touch", machine.mnt / "incoming" / "a", status=1)
        assert "Read-only file system" in said
        machine.run("mount", "-T", table, "-a")  # what is mounted already stays as it is
        machine.run("umount", machine.mnt)

    def test_a_mistake_is_told_at_the_terminal_and_by_the_exit_status_of_mount(
        self, machine: Machine
    ) -> None:
        for options, said in (
            ("cachesize=1GiB", "no option 'cachesize'"),
            ("cache_size", "option cache_size needs a value"),
            ("allow_other=1", "option allow_other takes no value"),
            ("umask=999", "--umask"),
            ("setuid=nobody-of-that-name", "there is no such user"),
            ("s3=s3://bucket/lfs,s3_endpoint=nowhere", "--s3-endpoint"),
        ):
            assert said in machine.mount("-o", options, status=USAGE)
            assert machine.run("findmnt", machine.mnt, status=1) == ""

    def test_what_the_daemon_cannot_do_is_told_at_the_terminal(self, machine: Machine) -> None:
        (machine.mnt / "something").touch()
        assert "it is not empty" in machine.mount(status=FAILED)
        (machine.mnt / "something").unlink()
        machine.mount()
        other = machine.folder / "other"
        other.mkdir()
        said = machine.run("mount", "-t", "fuse.lfsfs", machine.store, other, status=FAILED)
        assert f"is mounted already at {machine.mnt}" in said

    def test_no_option_of_fstab_mounts_anew(self, machine: Machine) -> None:
        machine.mount()
        assert "unmount it, then mount it" in machine.run(
            "mount", "-o", "remount,ro", machine.mnt, status=USAGE
        )


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", []),
        ("defaults,,rw,noatime,user=ann,x-systemd.requires=network-online.target,comment=a", []),
        ("ro,allow_other", ["--read-only", "--allow-other"]),
        ("cache_size=1GiB,mode=s3-only", ["--cache-size=1GiB", "--mode=s3-only"]),
        ('config="/etc/lfsfs/a,b.toml",xattr', ["--config=/etc/lfsfs/a,b.toml", "--xattr"]),
        ("encryption_key=command:vault:wrap=yes", ["--encryption-key=command:vault:wrap=yes"]),
    ],
    ids=["none", "not ours", "switches", "values", "quoted", "equals signs"],
)
def test_options_of_fstab_are_those_of_the_command(text: str, arguments: list[str]) -> None:
    assert read_options(text) == (arguments, None)


def test_what_the_helper_needs_for_itself_is_no_option_of_fstab() -> None:
    for word in ("foreground", "ready_fd=3", "help"):
        with pytest.raises(InvalidConfig, match="no option"):
            read_options(word)
    assert read_options("whatever=1,xattr", sloppy=True) == (["--xattr"], None)


def become_and_tell(account: str) -> None:
    become(account)
    print(os.getresuid(), os.getresgid(), os.getgroups(), os.environ["HOME"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_setuid_is_for_good_and_with_all_that_belongs_to_it() -> None:
    found = pwd.getpwnam("daemon")
    for account in ("daemon", str(found.pw_uid)):
        said = forking.run("test_fstab:become_and_tell", account, seconds=30)
        uid, gid = found.pw_uid, found.pw_gid
        assert said == (0, f"{(uid,) * 3} {(gid,) * 3} {[gid]} {found.pw_dir}\n", "")
    assert read_options("setuid=ann,ro") == (["--read-only"], "ann")
