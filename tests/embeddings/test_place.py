"""Where a vector lies, in its two lengths."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfsfs.embeddings import place

NUMBER = st.one_of(st.integers(0, 2**16 + 1), st.integers(0, 2**32 - 1))


@given(st.lists(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER)))
def test_a_place_is_the_same_in_either_length(places: list[place.Place]) -> None:
    encoded = [place.encode(one) for one in places]
    short = place.shortened(encoded)
    assert [place.decode(one) for one in short] == places
    assert [place.lengthened(one) for one in short] == encoded


@pytest.mark.parametrize(("one", "size"), [((65535, 2**32 - 1, 65535, 65535), 10), ((65536, 0, 0, 0), 16)])
def test_what_fits_is_short(one: place.Place, size: int) -> None:
    assert [len(found) for found in place.shortened([place.encode(one)])] == [size]
