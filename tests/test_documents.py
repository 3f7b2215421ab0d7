"""Every command of README.md and docs/ does what it says there, in the order that it stands there."""

import ast
import html
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from documents import Part, World, parts, run_by
from gitlfs.mounted import LFSFS, mounts_below, processes_that_name, within
from s3.servers import Server, moto
from server.served import free_port

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = [document for document in DOCUMENTS if any(part.reason is None for part in parts(document))]
NOT_RUN_LIMIT = 16
A_COMMAND = re.compile(
    r"^ {4,}(\$ )?(lfsfs|git|git-lfs|sudo|scripts/\w+|pip|python3?|curl|docker|kubectl|systemctl|export|source) +\S"
)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with moto(tmp_path_factory.mktemp("s3") / "log") as server:
        yield server


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Path]:
    """Where they are made. Nothing that was begun in them outlives the test."""
    yield tmp_path
    for place in reversed(
        mounts_below(tmp_path)
    ):  # as root they are in a mount namespace, and nobody else sees them
        subprocess.run([LFSFS, "unmount", "--force", place], timeout=60, check=False)
    for process in processes_that_name(tmp_path):
        with suppress(ProcessLookupError):
            os.kill(int(process.split()[0]), signal.SIGTERM)
    assert within(30, lambda: not processes_that_name(tmp_path))


@pytest.mark.mount
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("document", RUN, ids=lambda document: document.name)
def test_its_commands_do_what_it_says(document: Path, worlds: Path, s3: Server) -> None:
    stories: dict[int, list[Part]] = {}
    for part in parts(document):
        if part.reason is None:
            stories.setdefault(part.world, []).append(part)
    for number, story in stories.items():
        credentials = {"AWS_ACCESS_KEY_ID": s3.access_key_id, "AWS_SECRET_ACCESS_KEY": s3.secret_access_key}
        world = World(worlds / str(number), s3.bucket, s3.endpoint, free_port(), credentials)
        status, said = world.run(document.name, story, seconds=250)
        assert status == 0, said[-4000:]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_no_command_stands_where_it_would_not_be_run(document: Path) -> None:
    fences = re.sub(r"^ *```.*?^ *```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    outside = [
        line
        for line in re.sub(r"<!--.*?-->", "", fences, flags=re.DOTALL).splitlines()
        if A_COMMAND.match(line)
    ]
    assert outside == []


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    reasons = [
        (document.name, part.reason)
        for document in DOCUMENTS
        for part in parts(document)
        if part.reason is not None
    ]
    assert all(len(str(reason)) > 20 for _, reason in reasons), reasons
    assert len(reasons) <= NOT_RUN_LIMIT


def test_what_another_test_runs_is_run_there() -> None:
    for document in DOCUMENTS:
        for test in run_by(document):
            assert document.name in (ROOT / test).read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_its_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        assert target.startswith("http") or (document.parent / target).exists(), target


def test_the_picture_of_the_readme_is_of_the_commands_that_make_it() -> None:
    """scripts/picture makes it of what they say; here only that it is the picture of these."""
    svg = (ROOT / "docs" / "picture.svg").read_text()
    shown = [html.unescape(text).replace("\xa0", " ") for text in re.findall(r"<text[^>]*>(.*?)</text>", svg)]
    (typed,) = (
        ast.literal_eval(node.value)
        for node in ast.parse((ROOT / "scripts" / "picture.py").read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SHOWN"
    )
    assert [line for line in shown if line.startswith(("$", "#"))] == [
        command if command.startswith("#") else f"$ {command}" for command in typed
    ]
    assert not re.search(r"url\(.?http|href=.http|@import", svg), (
        "a browser would load something from elsewhere"
    )
