"""Pointer reads what git-lfs reads, and writes what git-lfs writes. The installed git-lfs is the judge."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lfsfs.errors import InvalidPointer
from lfsfs.oid import EMPTY_OID, Oid
from lfsfs.pointer import POINTER_LIMIT_BYTES, SIZE_LIMIT, Extension, Pointer

URL = b"https://git-lfs.github.com/spec/v1"
DIGITS = b"4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
OID = Oid(DIGITS.decode())
VERSION_LINE = b"version " + URL + b"\n"
OID_LINE = b"oid sha256:" + DIGITS + b"\n"
SIZE_LINE = b"size 12345\n"
CANONICAL = VERSION_LINE + OID_LINE + SIZE_LINE

VALID, INVALID, NOT_CANONICAL = 0, 1, 2  # the exit status of `git lfs pointer --check --strict`


def ext(key: bytes) -> bytes:
    return b"ext-" + key + b" sha256:" + DIGITS + b"\n"


def with_ext(*keys: bytes) -> bytes:
    return VERSION_LINE + b"".join(map(ext, keys)) + OID_LINE + SIZE_LINE


def padded(size: int) -> bytes:
    return CANONICAL + b"\n" * (size - len(CANONICAL))


def with_ext_of_length(size: int) -> bytes:
    return with_ext(b"0-" + b"x" * (size - len(with_ext(b"0-"))))


CASES = {
    "canonical": (VALID, CANONICAL),
    "no bytes": (VALID, b""),
    "largest size": (VALID, CANONICAL.replace(b"12345", b"9223372036854775807")),
    "one extension": (VALID, with_ext(b"0-a")),
    "ten extensions of growing priority": (VALID, with_ext(*(b"%d-a" % n for n in range(10)))),
    "extension with a dash": (VALID, with_ext(b"0-a-b")),
    "extension with a dot": (VALID, with_ext(b"0-a.b")),
    "extension not in UTF-8": (VALID, with_ext(b"0-a\xff")),
    "canonical, 1,024 bytes": (VALID, with_ext_of_length(1024)),
    "CRLF": (NOT_CANONICAL, CANONICAL.replace(b"\n", b"\r\n")),
    "no newline at the end": (NOT_CANONICAL, CANONICAL[:-1]),
    "newlines at the end": (NOT_CANONICAL, CANONICAL + b"\n\n"),
    "spaces around": (NOT_CANONICAL, b" \t\n" + CANONICAL + b" \v\f"),
    "blank lines between": (NOT_CANONICAL, CANONICAL.replace(b"\n", b"\n\r\n\n")),
    "no-break space at the end": (NOT_CANONICAL, CANONICAL + "\xa0\u2028".encode()),
    "padded to 1,024 bytes": (NOT_CANONICAL, padded(1024)),
    "alpha version": (NOT_CANONICAL, CANONICAL.replace(URL, b"http://git-media.io/v/2")),
    "pre-release version": (NOT_CANONICAL, CANONICAL.replace(URL, b"https://hawser.github.com/spec/v1")),
    "size 0": (NOT_CANONICAL, CANONICAL.replace(b"12345", b"0")),
    "size 0 of the empty oid": (
        NOT_CANONICAL,
        CANONICAL.replace(b"12345", b"0").replace(DIGITS, EMPTY_OID.encode()),
    ),
    "size -0": (NOT_CANONICAL, CANONICAL.replace(b"12345", b"-0")),
    "size with a plus": (NOT_CANONICAL, CANONICAL.replace(b"12345", b"+12345")),
    "size with zeros": (NOT_CANONICAL, CANONICAL.replace(b"12345", b"0012345")),
    "extension first": (NOT_CANONICAL, ext(b"0-a") + CANONICAL),
    "extension after the oid": (NOT_CANONICAL, VERSION_LINE + OID_LINE + ext(b"0-a") + SIZE_LINE),
    "extensions not sorted": (NOT_CANONICAL, with_ext(b"1-a", b"0-b")),
    "the same extension twice": (NOT_CANONICAL, with_ext(b"0-a", b"0-a")),
    "two extensions of one priority": (INVALID, with_ext(b"0-a", b"0-b")),
    "extension of priority 12": (INVALID, with_ext(b"12-a")),
    "extension without a name": (INVALID, with_ext(b"0-")),
    "extension whose name begins with a dot": (INVALID, with_ext(b"0-.b")),
    "extension after the size": (INVALID, CANONICAL + ext(b"0-a")),
    "extension of another hash": (INVALID, with_ext(b"0-a").replace(b"sha256", b"sha1", 1)),
    "blank": (INVALID, b" \n"),
    "text": (INVALID, b"hello\n"),
    "zeros": (INVALID, bytes(100)),
    "byte order mark": (INVALID, b"\xef\xbb\xbf" + CANONICAL),
    "lone 0x85 at the end": (INVALID, CANONICAL + b"\x85"),
    "ASCII separator at the end": (INVALID, CANONICAL + b"\x1c"),
    "two carriage returns": (INVALID, CANONICAL.replace(b"\n", b"\r\r\n")),
    "space after the version": (INVALID, CANONICAL.replace(URL, URL + b" ")),
    "tab for a space": (INVALID, CANONICAL.replace(b"size ", b"size\t")),
    "two spaces": (INVALID, CANONICAL.replace(b"size ", b"size  ")),
    "unknown version": (INVALID, CANONICAL.replace(b"v1", b"v9")),
    "no version": (INVALID, OID_LINE + SIZE_LINE),
    "no oid": (INVALID, VERSION_LINE + SIZE_LINE),
    "no size": (INVALID, VERSION_LINE + OID_LINE),
    "a line of one word": (INVALID, VERSION_LINE + b"git-lfs\n" + OID_LINE + SIZE_LINE),
    "oid before the version": (INVALID, OID_LINE + VERSION_LINE + SIZE_LINE),
    "oid twice": (INVALID, VERSION_LINE + OID_LINE + OID_LINE + SIZE_LINE),
    "unknown key": (INVALID, VERSION_LINE + b"mtime 5\n" + OID_LINE + SIZE_LINE),
    "a line after the size": (INVALID, CANONICAL + b"z 1\n"),
    "upper-case oid": (INVALID, CANONICAL.replace(DIGITS, DIGITS.upper())),
    "short oid": (INVALID, CANONICAL.replace(DIGITS, DIGITS[1:])),
    "oid without its hash": (INVALID, CANONICAL.replace(b"sha256:", b"")),
    "oid of another hash": (INVALID, CANONICAL.replace(b"sha256", b"sha512")),
    "size above 63 bits": (INVALID, CANONICAL.replace(b"12345", b"9223372036854775808")),
    "negative size": (INVALID, CANONICAL.replace(b"12345", b"-1")),
    "size with an underscore": (INVALID, CANONICAL.replace(b"12345", b"1_0")),
    "size in hexadecimal": (INVALID, CANONICAL.replace(b"12345", b"0x10")),
    "size in Arabic digits": (INVALID, CANONICAL.replace(b"12345", "٣".encode())),
    "no size but a space": (INVALID, CANONICAL.replace(b"12345", b" ")),
}


def our_verdict(content: bytes) -> int:
    try:
        pointer = Pointer.parse(content)
    except InvalidPointer:
        return INVALID
    return VALID if pointer.canonical else NOT_CANONICAL


def verdict_of_git_lfs(content: bytes, file: Path) -> int:
    file.write_bytes(content)
    command = ["git-lfs", "pointer", "--check", "--strict", "--file", str(file)]
    return subprocess.run(command, capture_output=True, cwd=file.parent, timeout=30).returncode


@pytest.mark.parametrize(("verdict", "content"), CASES.values(), ids=CASES.keys())
def test_the_verdict_is_that_of_git_lfs(verdict: int, content: bytes, tmp_path: Path) -> None:
    assert our_verdict(content) == verdict
    assert verdict_of_git_lfs(content, tmp_path / "pointer") == verdict


LINES = st.sampled_from(
    [
        VERSION_LINE,
        VERSION_LINE,
        VERSION_LINE.replace(URL, b"https://hawser.github.com/spec/v1"),
        OID_LINE,
        OID_LINE,
        SIZE_LINE,
        SIZE_LINE,
        ext(b"0-a"),
        ext(b"1-bc"),
        ext(b"1-d_e-f"),
        b"\n",
        b"\r\n",
        b" \n",
    ]
)
SCRAPS = st.sampled_from(
    [b"", b"\n", b"\r", b" ", b"\t", b"\x00", b"\xff", b"\xc2\x85", b"-", b"+", b"0", b":"]
)


@st.composite
def nearly_pointers(draw: st.DrawFn) -> bytes:
    """Pointers with lines moved, doubled or lost, and then a few scraps of bytes put in or over."""
    if draw(st.booleans()):
        content = with_ext(*draw(st.sampled_from([(), (b"0-a",), (b"0-a", b"3-b"), (b"3-b", b"0-a")])))
    else:
        content = b"".join(draw(st.lists(LINES, min_size=2, max_size=6)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        lost = draw(st.integers(0, 2))
        content = content[:at] + draw(SCRAPS) + content[at + lost :]
    return content


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(nearly_pointers())
def test_the_verdict_is_that_of_git_lfs_on_whatever_comes(tmp_path: Path, content: bytes) -> None:
    assert our_verdict(content) == verdict_of_git_lfs(content, tmp_path / "pointer")


@given(st.one_of(st.binary(max_size=1100), nearly_pointers()))
@example(b"\xff\xfe")
@example(b"version \x00")
def test_parsing_ends_in_a_pointer_or_in_invalid_pointer(content: bytes) -> None:
    try:
        pointer = Pointer.parse(content)
    except InvalidPointer as error:
        assert str(error).startswith("not a pointer: ")
        assert str(error).isprintable()
    else:
        assert pointer.size == 0 or Pointer.parse(pointer.encode()) == pointer


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(1, SIZE_LIMIT),
    st.dictionaries(
        st.integers(0, 9), st.from_regex(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,9}", fullmatch=True), max_size=4
    ),
)
def test_what_is_written_is_read_back_as_it_was(digest: bytes, size: int, names: dict[int, str]) -> None:
    extensions = tuple(Extension(priority, names[priority], OID) for priority in sorted(names))
    pointer = Pointer(Oid.from_bytes(digest), size, extensions)
    back = Pointer.parse(pointer.encode())
    assert back == pointer
    assert back.canonical


@pytest.mark.parametrize(
    "content", [b"", b"x", b"hello\n" * 1000, bytes(2**20)], ids=["0", "1", "6000", "1 MiB"]
)
def test_what_is_written_is_what_git_lfs_writes(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    command = ["git-lfs", "pointer", "--file", "file"]
    written = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=30).stdout
    assert Pointer.for_object(Oid.of(content), len(content)).encode() == written


def test_the_values_of_a_pointer() -> None:
    pointer = Pointer.parse(with_ext(b"0-fold", b"2-spin-dle"))
    assert pointer.oid == OID
    assert pointer.size == 12345
    assert pointer.extensions == (Extension(0, "fold", OID), Extension(2, "spin-dle", OID))


def test_the_empty_file_is_its_own_pointer() -> None:
    assert Pointer.parse(b"") == Pointer(EMPTY_OID, 0)
    assert Pointer.parse(b"").canonical
    assert Pointer.for_object(EMPTY_OID, 0).encode() == b""


def test_being_canonical_takes_no_part_in_comparison() -> None:
    loose = Pointer.parse(CANONICAL[:-1])
    assert loose == Pointer.parse(CANONICAL)
    assert loose.encode() == CANONICAL


def test_1025_bytes_are_no_pointer_and_the_error_says_so() -> None:
    assert Pointer.parse(padded(POINTER_LIMIT_BYTES)).oid == OID
    with pytest.raises(InvalidPointer, match=r"1025 bytes.* at most 1024"):
        Pointer.parse(padded(POINTER_LIMIT_BYTES + 1))


def test_no_pointer_is_written_that_git_lfs_would_overlook() -> None:
    """A 1,024-byte pointer passes `git lfs pointer --check`, but `git lfs ls-files` does not see it."""
    longest = Pointer.parse(with_ext_of_length(1023))
    assert len(longest.encode()) == 1023
    with pytest.raises(InvalidPointer, match="shorter than 1024"):
        Pointer.parse(with_ext_of_length(1024)).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello\n", "a line without a value: 'hello'"),
        (b"hello you\n", "version expected, not 'hello you'"),
        (CASES["unknown version"][1], "unknown version 'https://git-lfs.github.com/spec/v9'"),
        (CASES["no size"][1], "size is missing"),
        (CASES["upper-case oid"][1], "64 lower-case hex digits"),
        (CASES["oid of another hash"][1], "must be sha256:<64 hex digits>"),
        (CASES["negative size"][1], "invalid size '-1'"),
        (CASES["two extensions of one priority"][1], "two extensions of priority 0"),
        (CASES["a line after the size"][1], "a line after the size: 'z 1'"),
    ],
)
def test_the_error_says_what_is_wrong(content: bytes, message: str) -> None:
    with pytest.raises(InvalidPointer) as caught:
        Pointer.parse(content)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("size", "extensions"),
    [
        (-1, ()),
        (SIZE_LIMIT + 1, ()),
        (1, (Extension(1, "a", OID), Extension(0, "b", OID))),
        (1, (Extension(0, "a", OID), Extension(0, "b", OID))),
        (1, (Extension(10, "a", OID),)),
        (1, (Extension(-1, "a", OID),)),
        (1, (Extension(0, "", OID),)),
        (1, (Extension(0, "a b", OID),)),
        (1, (Extension(0, "a\nsize 5", OID),)),
        (1, (Extension(0, "é", OID),)),
    ],
)
def test_a_pointer_that_no_text_can_hold_is_not_made(size: int, extensions: tuple[Extension, ...]) -> None:
    with pytest.raises(InvalidPointer):
        Pointer(OID, size, extensions)


@pytest.mark.parametrize(("oid", "size"), [(EMPTY_OID, 1), (OID, 0), (OID, -1)])
def test_no_object_has_the_oid_of_another_size(oid: Oid, size: int) -> None:
    with pytest.raises(InvalidPointer):
        Pointer.for_object(oid, size)
