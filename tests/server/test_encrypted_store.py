"""The server of a store whose local disk is encrypted: uploads, downloads and ranges are what they are of any other."""

import random
from pathlib import Path

from .served import Served, oid_of, refused

MIB = 1 << 20
SIZE = 3 * MIB + 12_345
CONTENT = random.Random(18).randbytes(SIZE)


def test_what_goes_up_comes_down_whole_and_by_ranges_and_is_sealed_on_the_disk(tmp_path: Path) -> None:
    key = tmp_path / "store.key"
    key.write_text("17" * 32)
    with Served(tmp_path / "served", "--store-key", f"file:{key}") as served:
        api = served.api()
        for content in (CONTENT, b"small", b""):
            oid = api.put(content)
            assert oid == oid_of(content)
            assert api.fetch(oid, len(content)).content == content
            lies = (served.store / "objects" / oid[:2] / oid[2:4] / oid).read_bytes()
            assert lies.startswith(b"lfsfs-sealed-01\n")
            assert not content or content[:100] not in lies
        oid = oid_of(CONTENT)
        for first, last in ((0, 0), (65_530, 65_545), (MIB - 1, 2 * MIB), (SIZE - 1, SIZE - 1)):
            answer = api.fetch(oid, SIZE, Range=f"bytes={first}-{last}")
            assert (answer.status_code, answer.content) == (206, CONTENT[first : last + 1])
    key.write_text("18" * 32)
    said = refused(
        "serve", served.store, "--listen", "127.0.0.1:0", "--foreground", "--store-key", f"file:{key}"
    )
    assert "is encrypted with the master key" in said
