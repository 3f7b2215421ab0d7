"""Oid: 64 lower-case hexadecimal digits, and nothing else."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfsfs.errors import InvalidOid
from lfsfs.oid import EMPTY_OID, Oid, digests

DIGITS = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"


def test_an_oid_is_the_text_that_git_lfs_writes() -> None:
    oid = Oid(DIGITS)
    assert oid == DIGITS
    assert f"{oid}" == DIGITS
    assert oid.path() == f"4d/7a/{DIGITS}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        DIGITS[:-1],
        DIGITS + "0",
        DIGITS.upper(),
        DIGITS[:-1] + "g",
        DIGITS + "\n",
        "\n" + DIGITS[1:],
        " " + DIGITS[1:],
        "sha256:" + DIGITS,
        "٣" * 64,  # digits to str.isdigit and to \d, but no hexadecimal ones
        "0x" + DIGITS[2:],
        DIGITS[:-1] + "\0",
    ],
)
def test_anything_else_is_an_error_that_says_so(text: str) -> None:
    with pytest.raises(InvalidOid, match=r"not an oid: .*64 lower-case hex digits"):
        Oid(text)


def test_what_is_no_text_is_no_oid() -> None:
    with pytest.raises(InvalidOid):
        Oid(DIGITS.encode())  # type: ignore[arg-type]


def test_the_message_stays_short_however_long_the_text() -> None:
    with pytest.raises(InvalidOid) as caught:
        Oid("x" * 1_000_000)
    assert len(str(caught.value)) < 200
    assert "1000002 characters" in str(caught.value)


@given(st.lists(st.binary(max_size=20)))
def test_many_at_once_are_the_same_as_one_by_one(contents: list[bytes]) -> None:
    texts = [hashlib.sha256(content).hexdigest() for content in contents]
    oids = Oid.all_of(texts)
    assert oids == texts
    assert all(type(oid) is Oid for oid in oids)
    assert digests(oids) == [oid.to_bytes() for oid in oids]


@pytest.mark.parametrize(
    "texts",
    [[DIGITS[:-1], DIGITS + "0"], [DIGITS, DIGITS.upper()], [DIGITS, ""], [DIGITS[:-1] + "\n", DIGITS]],
    ids=["shifted", "upper", "empty", "newline"],
)
def test_one_that_is_none_spoils_all(texts: list[str]) -> None:
    with pytest.raises(InvalidOid, match="not an oid"):
        Oid.all_of(texts)


@given(st.binary(max_size=200))
def test_an_oid_is_the_sha256_of_the_bytes(content: bytes) -> None:
    oid = Oid.of(content)
    assert oid == hashlib.sha256(content).hexdigest()
    assert Oid.from_bytes(oid.to_bytes()) == oid


def test_a_digest_of_another_length_is_no_oid() -> None:
    with pytest.raises(InvalidOid):
        Oid.from_bytes(hashlib.sha1(b"").digest())


@given(st.lists(st.binary(min_size=32, max_size=32)))
def test_oids_sort_as_their_digests(digests: list[bytes]) -> None:
    assert sorted(map(Oid.from_bytes, digests)) == [Oid.from_bytes(digest) for digest in sorted(digests)]


def test_the_empty_oid() -> None:
    assert EMPTY_OID == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
