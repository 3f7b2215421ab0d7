"""The systemd unit: systemd understands all of it, and the mount that it makes is seen by everybody."""

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[1] / "systemd" / "lfsfs@.service"
INSTALLED = "/usr/local/bin/lfsfs"
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


@pytest.fixture
def service() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return parser["Service"]


def test_systemd_finds_nothing_to_complain_about(tmp_path: Path) -> None:
    # Where lfsfs is not installed system-wide, systemd is shown the one of this environment.
    (tmp_path / UNIT.name).write_text(UNIT.read_text().replace(INSTALLED, str(LFSFS)))
    verify = shutil.which("systemd-analyze")
    assert verify is not None, "systemd-analyze is not installed"
    done = subprocess.run(
        [verify, "verify", tmp_path / "lfsfs@some-mount.service"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_mistake_in_the_unit_would_be_found(tmp_path: Path) -> None:
    text = UNIT.read_text().replace(INSTALLED, str(LFSFS)).replace("WatchdogSec=", "WatchdogSeconds=")
    (tmp_path / UNIT.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "lfsfs@some-mount.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "WatchdogSeconds" in done.stderr


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


def test_the_command_of_the_unit_is_one_that_lfsfs_takes(service: configparser.SectionProxy) -> None:
    command = service["ExecStart"].replace("%i", "absent").split()
    assert command[0] == INSTALLED
    done = subprocess.run([LFSFS, *command[1:]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "lfsfs: /etc/lfsfs/absent.toml: No such file or directory\n")
