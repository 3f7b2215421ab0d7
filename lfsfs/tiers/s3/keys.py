"""Keys: where in a bucket the object of an oid lies, and which keys are objects."""

from lfsfs.config import Layout
from lfsfs.errors import InvalidName
from lfsfs.oid import OID_HEX_DIGITS, Oid

_HEX = frozenset("0123456789abcdef")
_AFTER_SLASH = chr(ord("/") + 1)  # a segment with this behind it sorts after all keys below the segment
_LAST_OID = "f" * OID_HEX_DIGITS
LONGEST_KEY = 1024  # bytes: the limit of S3


class Keys:
    """The keys below one prefix. In each layout they ascend as the oids do, so a listing need not be sorted.

    Notes are keys below the same prefix; in the layouts without "objects/" they lie between the objects, and
    `beyond` tells a listing how to get past them.
    """

    def __init__(self, prefix: str, layout: Layout) -> None:
        self.root = f"{prefix}/" if prefix else ""
        self.objects = f"{self.root}objects/" if layout == "objects/aa/bb/oid" else self.root
        self._layout = layout

    def key(self, oid: Oid) -> str:
        if self._layout == "flat":
            return f"{self.objects}{oid}"
        rest = oid[4:] if self._layout == "aa/bb/rest" else oid
        return f"{self.objects}{oid[:2]}/{oid[2:4]}/{rest}"

    def oid(self, key: str) -> Oid | None:
        """The oid whose object this key names; None for a key that is no object's."""
        if not key.startswith(self.objects):
            return None
        relative = key[len(self.objects) :]
        digits = relative.replace("/", "") if self._layout == "aa/bb/rest" else relative[-OID_HEX_DIGITS:]
        if len(digits) != OID_HEX_DIGITS or not _HEX.issuperset(digits):
            return None
        oid = Oid(digits)
        return oid if self.key(oid) == key else None

    def beyond(self, key: str) -> str | None:
        """From where a listing that met this foreign key goes on; None when no object can follow."""
        segment = key[len(self.objects) :].partition("/")[0]
        if segment > _LAST_OID:
            return None
        if _HEX.issuperset(segment):  # where objects may lie too: only past this key
            return key
        return f"{self.objects}{segment}{_AFTER_SLASH}" if f"{self.objects}{segment}/" <= key else key

    def note(self, name: str) -> str:
        """The key of a note. InvalidName for a name that S3 cannot hold or that an object has."""
        key = self.root + name
        parts = name.split("/")
        if not name.isprintable() or any(part in ("", ".", "..") for part in parts):
            raise InvalidName(f"not the name of a note: {name!r}")
        if len(key.encode()) > LONGEST_KEY:
            raise InvalidName(f"too long a name for S3: {name!r}")
        if self.oid(key) is not None:
            raise InvalidName(f"the name of an object: {name!r}")
        return key
