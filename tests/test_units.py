"""Sizes, ages and times, as people write and read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfsfs.errors import InvalidConfig
from lfsfs.units import (
    DAY,
    format_age,
    format_size,
    format_time,
    parse_age,
    parse_size,
    parse_time,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("512B", 512),
        ("1k", 1000),
        ("1kB", 1000),
        ("1KiB", 1024),
        ("1.5 MiB", 1536 * 1024),
        ("10GiB", 10 * 1024**3),
        ("2T", 2 * 1000**4),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1.", "ten", "1XB", "1 Ki B", "KiB", "1e3", "9EiB", "٣", "1_000"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidConfig, match="size"):
        parse_size(text)


def test_ages_are_read_as_people_write_them() -> None:
    ages = {"90s": 90.0, "1.5h": 5400.0, "7d": 7 * DAY, "2w": 14 * DAY, "5m": 300.0}
    assert {text: parse_age(text) for text in ages} == ages


@pytest.mark.parametrize("text", ["", "7", "d", "7 days", "-1d", "7D"])
def test_what_is_no_age_is_refused(text: str) -> None:
    with pytest.raises(InvalidConfig, match="not an age"):
        parse_age(text)


def test_times_are_dates_or_ages() -> None:
    assert parse_time("1970-01-02T00:00:01+00:00", now=0) == 86_401 * 10**9
    assert parse_time("1d", now=2 * DAY) == DAY * 10**9
    assert format_time(parse_time("2026-01-31 12:30", now=0)) == "2026-01-31 12:30:00"
    for text in ("yesterday", "2026-13-01", ""):
        with pytest.raises(InvalidConfig, match="not a time"):
            parse_time(text, now=0)


@given(st.integers(0, 2**62))
def test_a_size_is_shown_in_few_characters_and_reads_back_to_about_itself(size: int) -> None:
    shown = format_size(size)
    assert len(shown.split()[0]) <= 4
    assert abs(parse_size(shown) - size) <= size / 18


def test_ages_are_shown_in_two_units() -> None:
    assert [format_age(age) for age in (0, 0.5, 61, 3600, 90061)] == ["0s", "0s", "1m 1s", "1h", "1d 1h"]
