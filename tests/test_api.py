"""The public API: what docs/API.md shows runs, what it names is there, and the notebook goes through."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lfsfs
from lfsfs.client.embeddings import SyncCollection, SyncEmbeddings
from lfsfs.store.incoming import Incoming

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "API.md").read_text()


def test_every_line_of_python_in_the_documentation_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6
    script = "\n".join(blocks).replace("/srv/store", str(tmp_path / "store"))
    exec(compile(script, "docs/API.md", "exec"), {"__name__": "documentation"})
    assert "ObjectStat" in capsys.readouterr().out


@pytest.mark.slow
def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "docs" / "examples" / "vectors.py"],
        env={**os.environ, "LFSFS_STORE": str(tmp_path)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "oid sha256:" in done.stdout


def test_all_that_is_public_is_documented() -> None:
    for name in lfsfs.__all__:
        assert getattr(lfsfs, name) is not None
        assert re.search(rf"\b{name}\b", PAGE), f"docs/API.md does not name {name}"
    for kind in (lfsfs.Client, lfsfs.Store, Incoming, SyncCollection, SyncEmbeddings):
        for name, member in inspect.getmembers(kind):
            if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                assert inspect.getdoc(member), f"{kind.__name__}.{name} has no docstring"
    for name in (name for name, member in inspect.getmembers(lfsfs.Client) if inspect.isfunction(member)):
        assert name.startswith("_") or name == "soon" or f"`{name}(" in PAGE, (
            f"docs/API.md does not name Client.{name}"
        )


def test_it_is_typed() -> None:
    assert (Path(lfsfs.__file__).parent / "py.typed").is_file()
    for name, member in inspect.getmembers(lfsfs.Client, inspect.isfunction):
        hints = {**member.__annotations__}
        assert name.startswith("_") or set(inspect.signature(member).parameters) - {"self"} <= set(hints), (
            name
        )
