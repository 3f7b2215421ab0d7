"""docs/SEMANTICS.md is executed: its sentences name the tests that run them, and those tests name them.

A sentence is a list item `- **2.1** It survives.` followed by the names of its tests, `tests/a.py::test_b`,
each in backquotes. A test says which sentences it runs with `@pytest.mark.promise("2.1")`.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "SEMANTICS.md"
PROMISES = 11  # as many as the design makes
_SENTENCE = re.compile(
    r"^- \*\*(?P<number>\d+\.\d+)\*\* (?P<text>.*?)(?=^- \*\*|^#|\Z)", re.MULTILINE | re.DOTALL
)
_TEST = re.compile(r"`(tests/[\w/]+\.py::[\w:]+)`")
_NEVER_RUN = ("skip", "xfail")


@dataclass(frozen=True)
class Test:
    """A test function: what it is called, the sentences that it says it runs, and all of its marks."""

    __test__ = False

    name: str
    promises: frozenset[str]
    marks: frozenset[str]


def sentences() -> dict[str, set[str]]:
    """The number of each sentence, and the tests that it names."""
    found: dict[str, set[str]] = {}
    for match in _SENTENCE.finditer(DOCUMENT.read_text()):
        number = match["number"]
        assert number not in found, f"two sentences have the number {number}"
        found[number] = set(_TEST.findall(match["text"]))
    return found


def written_tests() -> dict[str, Test]:
    """Every test function below tests/, by its name as pytest writes it."""
    found = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(file.read_text())
        for test in _functions(tree, str(file.relative_to(ROOT)), _module_marks(tree)):
            found[test.name] = test
    return found


def _functions(node: ast.Module | ast.ClassDef, place: str, above: list[ast.expr]) -> Iterator[Test]:
    for child in node.body:
        if isinstance(child, ast.ClassDef) and child.name.startswith("Test"):
            yield from _functions(child, f"{place}::{child.name}", above + child.decorator_list)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and child.name.startswith("test_"):
            marks = above + child.decorator_list
            promises = [value for mark in marks for value in _promise(mark)]
            yield Test(f"{place}::{child.name}", frozenset(promises), frozenset(map(_mark_name, marks)))


def _module_marks(tree: ast.Module) -> list[ast.expr]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [
            "pytestmark"
        ]:
            return node.value.elts if isinstance(node.value, ast.List) else [node.value]
    return []


def _mark_name(mark: ast.expr) -> str:
    return ast.unparse(mark.func if isinstance(mark, ast.Call) else mark).removeprefix("pytest.mark.")


def _promise(mark: ast.expr) -> list[str]:
    if not isinstance(mark, ast.Call) or _mark_name(mark) != "promise":
        return []
    return [str(argument.value) for argument in mark.args if isinstance(argument, ast.Constant)]


def test_every_sentence_names_a_test() -> None:
    without = [number for number, tests in sentences().items() if not tests]
    assert not without, f"sentences without a test: {without}"


def test_every_test_that_a_sentence_names_is_written_and_is_never_skipped() -> None:
    written = written_tests()
    named = {test for tests in sentences().values() for test in tests}
    assert sorted(named - written.keys()) == []
    passive = [
        test for test in named if any(word in mark for mark in written[test].marks for word in _NEVER_RUN)
    ]
    assert passive == []


def test_sentences_and_tests_name_each_other() -> None:
    by_document = {(number, test) for number, tests in sentences().items() for test in tests}
    by_mark = {(number, test.name) for test in written_tests().values() for number in test.promises}
    assert sorted(by_document - by_mark) == [], "these tests lack @pytest.mark.promise"
    assert sorted(by_mark - by_document) == [], "docs/SEMANTICS.md does not name these tests"


@pytest.mark.parametrize("promise", range(1, PROMISES + 1))
def test_every_promise_of_the_design_has_a_section_that_holds_or_says_what_is_missing(promise: int) -> None:
    section = re.search(rf"^## {promise}\. .*?(?=^## |\Z)", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None, f"no section {promise}"
    assert f"**{promise}." in section[0] or "Not promised yet" in section[0]


def test_numbers_belong_to_their_section_and_count_up() -> None:
    numbers = [tuple(map(int, number.split("."))) for number in sentences()]
    assert numbers == sorted(numbers)
    for section in {section for section, _ in numbers}:
        assert [n for s, n in numbers if s == section] == list(
            range(1, sum(s == section for s, _ in numbers) + 1)
        )
