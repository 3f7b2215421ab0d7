"""`lfsfs stats`: what there is, counted and drawn."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import trio

import lfsfs
from lfsfs.cli.main import main
from lfsfs.store import sizes
from lfsfs.store.opening import open_store

Said = Callable[..., tuple[int, str, str]]
CONTENTS = (b"", b"x", b"12345", os.urandom(5_000), os.urandom(70_000))


@pytest.fixture
def said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs `stats` on a store with objects, two repositories that share one, and vectors of which two are equal."""
    store = tmp_path / "store"
    with lfsfs.connect(store, create=True) as client:
        matrix = np.ones((3, 4), np.float32)
        matrix[2] = 7
        client.embeddings.write_embeddings_batch(([f"{number:064x}" for number in range(3)], matrix))

    async def prepare() -> None:
        async with open_store(store) as opened:
            for name in ("one", "two"):
                await opened.add_repository(name)

    trio.run(prepare)
    for number, content in enumerate(CONTENTS):
        (tmp_path / str(number)).write_bytes(content)
        main(["put", "--store", str(store), "--repo", "one", str(tmp_path / str(number))])
    main(["put", "--store", str(store), "--repo", "two", str(tmp_path / "4")])

    def said(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["stats", "--store", str(store), *map(str, arguments)])
        return status, *capsys.readouterr()

    return said


def test_sizes_sharing_vectors_and_places_are_counted(said: Said) -> None:
    found = json.loads(said("--json")[1])
    assert sum(one["objects"] for one in found["sizes"]) >= len(CONTENTS)
    assert {0, 1, 4, 4096, 65536} <= {one["from"] for one in found["sizes"]}
    assert found["saved_by_sharing"] == 70_000
    assert found["vectors"] == {"count": 3, "bytes": 48, "saved": 16}
    assert found["places"] == {"local disk": sum(one["bytes"] for one in found["sizes"])}
    assert sum(hour["objects"] for hour in found["growth"]) == sum(one["objects"] for one in found["sizes"])
    shown = said()[1]
    assert "68 KiB by sharing" in shown
    assert "█" in shown


@pytest.mark.parametrize("size", [0, 1, 3, 4, 15, 16, 2**40 - 1, 2**40])
def test_a_size_is_in_its_class(size: int) -> None:
    number = sizes.class_of(size)
    assert sizes.least_of(number) <= size < sizes.least_of(number + 1)


@pytest.mark.slow
def test_it_is_drawn_as_svg_and_png_and_nothing_else(said: Said, tmp_path: Path) -> None:
    assert said("--plot", tmp_path / "store.svg")[0] == 0
    drawing = ElementTree.parse(tmp_path / "store.svg").getroot()
    texts = {text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")}
    assert {"Growth", "Objects by size", "Saved by keeping each once", "Where the bytes lie"} <= texts
    assert said("--plot", tmp_path / "store.png")[0] == 0
    assert (tmp_path / "store.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit) as ended:
        said("--plot", tmp_path / "store.gif")
    assert ended.value.code == 2


def test_without_matplotlib_what_is_missing_is_said(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['matplotlib'] = None; from lfsfs.cli.main import main;"
        " sys.exit(main(['stats', '--plot', 'store.png']))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    said = "lfsfs: a plot needs matplotlib, which is not installed: pip install 'lfsfs[plot]'\n"
    assert (ended.returncode, ended.stderr) == (2, said)
