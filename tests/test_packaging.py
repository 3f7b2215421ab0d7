"""What `pip install lfsfs` brings: built as sdist and wheel, installed where nothing else is, and used there."""

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements-dev.lock"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = (*PROJECT["scripts"],)
BUILD_SECONDS = INSTALL_SECONDS = 240


def ran(*command: str | Path, seconds: int = 60, **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, check=False, cwd="/",
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def test_the_version_stands_in_one_place() -> None:
    import lfsfs

    assert lfsfs.__version__ == version("lfsfs") == PROJECT["version"]
    assert ran(Path(sys.executable).with_name("lfsfs"), "--version").startswith(
        f"lfsfs {PROJECT['version']}\n"
    )
    written = [
        path for path in (ROOT / "lfsfs").rglob("*.py") if re.search(r"__version__ *=", path.read_text())
    ]
    assert written == []
    assert re.fullmatch(r"\d+\.\d+\.\d+", PROJECT["version"]), "semantic versioning: docs/VERSIONS.md"


def test_the_lock_has_whatever_pyproject_asks_for_with_hashes() -> None:
    text = LOCK.read_text()
    pinned: dict[str, list[Version]] = {}
    for entry in re.split(r"\n(?=\S)", text):
        found = re.match(r"([\w.-]+)==([\w.!+]+)", entry)
        if found:
            assert "--hash=sha256:" in entry, found[0]
            pinned.setdefault(canonicalize_name(found[1]), []).append(Version(found[2]))
    extras = PROJECT["optional-dependencies"]
    wanted = [
        *PROJECT["dependencies"],
        *extras["dev"],
        *(one for name in ("fsspec", "plot") for one in extras[name]),
    ]
    for requirement in map(Requirement, wanted):
        if requirement.name != "lfsfs":
            versions = pinned.get(canonicalize_name(requirement.name), [])
            assert versions, f"{requirement} is not in requirements-dev.lock: scripts/lock"
            assert all(one in requirement.specifier for one in versions), f"{requirement}: scripts/lock"
    assert "file:" not in text


@pytest.mark.slow
@pytest.mark.timeout(2 * BUILD_SECONDS + INSTALL_SECONDS)
def test_sdist_and_wheel_are_whole_and_work_in_a_clean_environment(tmp_path: Path) -> None:
    tracked = ran("git", "-C", ROOT, "ls-files", "lfsfs", "systemd", "completions").splitlines()
    tree = tmp_path / "tree"  # what is tracked, as it is now: nothing that lies beside it gets in by accident
    for name in ran("git", "-C", ROOT, "ls-files").splitlines():
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    ran(
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        tmp_path / "dist",
        tree,
        seconds=BUILD_SECONDS,
    )
    (sdist,), (wheel,) = (tmp_path / "dist").glob("*.tar.gz"), (tmp_path / "dist").glob("*.whl")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {*tracked, "README.md", "LICENSE", "docs/FORMAT.md", "scripts/install"} <= names
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    data = {name.partition(".data/data/")[2] for name in names}
    for name in tracked:
        there = name in names or any(one.endswith("/" + name.rpartition("/")[2]) for one in data)
        assert there, f"{name} is not in the wheel"

    place = tmp_path / "clean"
    uv = Path(sys.executable).with_name("uv")
    ran(uv, "venv", "--quiet", "--python", sys.executable, place)
    constraint = tmp_path / "constraints"
    constraint.write_text(re.sub(r" \\\n( +--hash=\S+( \\)?\n?)+", "\n", LOCK.read_text()))
    ran(uv, "pip", "install", "--quiet", "--python", place / "bin" / "python", "--constraint", constraint,
        f"{wheel}[fsspec]", seconds=INSTALL_SECONDS)  # fmt: skip
    lfsfs, python = place / "bin" / "lfsfs", place / "bin" / "python"
    assert all((place / "bin" / command).exists() for command in COMMANDS)
    assert ran(lfsfs, "--version").startswith(f"lfsfs {PROJECT['version']}\n")
    assert (place / "share" / "lfsfs" / "systemd" / "lfsfs@.service").is_file()
    store = tmp_path / "store"
    program = f"""
import lfsfs, fsspec, numpy
with lfsfs.connect({str(store)!r}, create=True) as client:
    row = client.put(b"clean")
    client.embeddings.write_embedding("ab" * 32, numpy.arange(4.0))
    assert fsspec.open("lfsfs://objects/" + row.oid, store={str(store)!r}).open().read() == b"clean"
from lfsfs.server.page import rendering  # the page's templates are there
"""
    ran(python, "-P", "-c", program)
    (row,) = json.loads(ran(lfsfs, "ls", "--json", "--store", store))
    assert ran(lfsfs, "get", row["oid"], "-o", "-", "--store", store) == "clean"
