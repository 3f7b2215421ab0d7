"""Place: where a vector lies, as 16 bytes in its row and, mostly, as 10 in the table of digests."""

import struct

import numpy as np

Place = tuple[int, int, int, int]
"""The number of a pack, the offset in it, the size there; or LOOSE, the number of a loose vector, its size. Then the
number of the form.
"""
_LONG = struct.Struct(">4I")
_LONG_ROW = np.dtype([("pack", ">u4"), ("offset", ">u4"), ("size", ">u4"), ("form", ">u4")])
_SHORT = struct.Struct(">HIHH")
_SHORT_ROW = np.dtype([("pack", ">u2"), ("offset", ">u4"), ("size", ">u2"), ("form", ">u2")])
_SHORT_LIMIT = 1 << 16


def encode(place: Place) -> bytes:
    """As a row begins."""
    return _LONG.pack(*place)


def decode(encoded: bytes) -> Place:
    """Of either length."""
    pack, offset, size, form = (_SHORT if len(encoded) == _SHORT.size else _LONG).unpack(encoded)
    return pack, offset, size, form


def lengthened(encoded: bytes) -> bytes:
    """As a row begins."""
    return _LONG.pack(*_SHORT.unpack(encoded)) if len(encoded) == _SHORT.size else encoded


def shortened(encoded: list[bytes]) -> list[bytes]:
    """Each as the table of digests has it: in 10 bytes where pack, size and form fit into two each."""
    table = np.frombuffer(b"".join(encoded), _LONG_ROW)
    fits = (table["pack"] < _SHORT_LIMIT) & (table["size"] < _SHORT_LIMIT) & (table["form"] < _SHORT_LIMIT)
    short = table.astype(_SHORT_ROW, casting="same_kind").tobytes()
    pieces = (short[at : at + _SHORT.size] for at in range(0, len(short), _SHORT.size))
    return [one if fit else other for one, other, fit in zip(pieces, encoded, fits.tolist(), strict=True)]
