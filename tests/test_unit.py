"""The systemd units: systemd understands all of them, and the mounts that they make are seen by everybody."""

import configparser
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parents[1] / "systemd"
UNIT = SYSTEMD / "lfsfs@.service"
SERVER = SYSTEMD / "lfsfs-server@.service"
OF_USERS = SYSTEMD / "user" / "lfsfs@.service"
UNITS = (UNIT, SERVER, OF_USERS, SYSTEMD / "srv-lfs.mount", SYSTEMD / "srv-lfs.automount")
INSTALLED = "/usr/local/bin/lfsfs"
INSTALLED_BY_USERS = "%h/.local/bin/lfsfs"
LFSFS = Path(sys.executable).with_name("lfsfs")

# systemd.exec(5): each of these gives the service a mount namespace of its own, whatever else it does.
MOUNT_NAMESPACE = {
    "BindPaths",
    "BindReadOnlyPaths",
    "ExecPaths",
    "InaccessiblePaths",
    "MountAPIVFS",
    "MountFlags",
    "NoExecPaths",
    "PrivateDevices",
    "PrivateIPC",
    "PrivateMounts",
    "PrivateNetwork",
    "PrivateTmp",
    "PrivateUsers",
    "ProcSubset",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectProc",
    "ProtectSystem",
    "ReadOnlyPaths",
    "ReadWritePaths",
    "RootDirectory",
    "RootImage",
    "TemporaryFileSystem",
    "DynamicUser",
    "LogNamespace",
    "RuntimeDirectory",
    "StateDirectory",
}


def read(unit: Path) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, strict=False)  # SystemCallFilter= may come twice
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit.read_text())
    return parser["Service"]


@pytest.fixture
def service() -> configparser.SectionProxy:
    return read(UNIT)


def analyzed(unit: Path, folder: Path, *command: str, change: tuple[str, str] = ("", "")) -> tuple[int, str]:
    """What systemd-analyze says of a unit. Where lfsfs is not installed, it is shown the one of this environment."""
    text = unit.read_text().replace(INSTALLED, str(LFSFS)).replace(INSTALLED_BY_USERS, str(LFSFS))
    copy = folder / unit.name.replace("@", "@some")
    copy.write_text(text.replace(*change))
    kind = ["--user"] if unit == OF_USERS else []
    with (
        tempfile.TemporaryDirectory() as runtime
    ):  # a short path: it looks at units with sockets there as well
        done = subprocess.run(
            ["systemd-analyze", *kind, *command, copy],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"XDG_RUNTIME_DIR": runtime},
        )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: str(unit.relative_to(SYSTEMD)))
def test_systemd_finds_nothing_to_complain_about(unit: Path, tmp_path: Path) -> None:
    assert analyzed(unit, tmp_path, "verify") == (0, "")


@pytest.mark.parametrize("unit", [UNIT, OF_USERS], ids=["of the machine", "of a user"])
def test_a_mistake_in_a_unit_would_be_found(unit: Path, tmp_path: Path) -> None:
    _, said = analyzed(unit, tmp_path, "verify", change=("WatchdogSec=", "WatchdogSeconds="))
    assert "WatchdogSeconds" in said


@pytest.mark.parametrize(("unit", "threshold"), [(SERVER, 15), (UNIT, 50)], ids=["server", "mount"])
def test_a_unit_is_no_more_exposed_than_it_must_be(unit: Path, threshold: int, tmp_path: Path) -> None:
    """Tenths of systemd's points from 0 (safe) to 10. A mount must be seen by all: no view of its own of the machine."""
    status, said = analyzed(unit, tmp_path, "security", "--offline=yes", f"--threshold={threshold}")
    assert status == 0, said


def test_the_unit_of_a_user_leaves_fusermount3_its_privileges() -> None:
    assert not {"NoNewPrivileges", "RestrictNamespaces", "SystemCallFilter", "LockPersonality"} & set(
        read(OF_USERS)
    )
    assert not MOUNT_NAMESPACE & set(read(OF_USERS))


def test_nothing_hides_the_mount_in_a_namespace_of_the_service(service: configparser.SectionProxy) -> None:
    assert not MOUNT_NAMESPACE & set(service)


def test_the_service_may_do_what_mounting_needs(service: configparser.SectionProxy) -> None:
    assert "CAP_SYS_ADMIN" in service["CapabilityBoundingSet"].split()
    assert "@mount" in service["SystemCallFilter"].split()
    assert service["DeviceAllow"] == "/dev/fuse rw"


def test_the_service_is_watched_restarted_and_stopped_gently(service: configparser.SectionProxy) -> None:
    assert service["Type"] == "notify"
    assert service["WatchdogSec"]
    assert service["Restart"] == "on-failure"
    assert service["KillMode"] == "mixed"
    assert service["TimeoutStopSec"]


@pytest.mark.parametrize("unit", [UNIT, SERVER, OF_USERS], ids=["mount", "server", "of a user"])
def test_the_command_of_a_unit_is_one_that_lfsfs_takes(unit: Path) -> None:
    command = read(unit)["ExecStart"].replace("%i", "absent").replace("%E", "/etc").split()
    assert command[0] in (INSTALLED, INSTALLED_BY_USERS)
    done = subprocess.run([LFSFS, *command[1:]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "lfsfs: /etc/lfsfs/absent.toml: No such file or directory\n")


@pytest.mark.parametrize("unit", [UNIT, SERVER, OF_USERS], ids=["mount", "server", "of a user"])
def test_a_reload_has_a_new_daemon_follow(unit: Path) -> None:
    command = read(unit)["ExecReload"].replace("%i", "absent").replace("%E", "/etc").split()
    assert command[:2] in ([INSTALLED, "restart"], [INSTALLED_BY_USERS, "restart"])
    done = subprocess.run([LFSFS, *command[1:]], capture_output=True, text=True, check=False)
    assert done.returncode in (2, 3)
    assert "absent" in done.stderr
