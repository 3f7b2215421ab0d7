"""import from a bucket of another program, and export to one."""

import json
from pathlib import Path
from typing import Any

import forking
import pytest

from lfsfs import Oid, connect
from lfsfs.exchange.forms import Form, path

from .stores import Bucket

LARGE = bytes(range(256)) * 5_000
SMALL = b"a few bytes\n"


@pytest.mark.parametrize("form", ["gitlab", "giftless"])
def test_a_bucket_is_imported_and_exported_to(
    tmp_path: Path, bucket: Bucket, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", bucket.server.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bucket.server.secret_access_key)
    for content in (LARGE, SMALL):
        bucket.put(path(form, Oid.of(content), "studio/game"), content)
    bucket.put(path(form, Oid.of(b"another's"), "studio/game"), b"damaged")
    bucket.put("README", b"no object")
    done = ran(tmp_path, bucket, "import", str(bucket.options.url), "--repo", "game", status=1)
    assert done["new"] == {"objects": 2, "bytes": len(LARGE) + len(SMALL)}
    assert done["corrupt"] == [path(form, Oid.of(b"another's"), "studio/game")]
    again = ran(tmp_path, bucket, "import", str(bucket.options.url), "--repo", "game", status=1)
    assert (again["new"]["objects"], again["known"]) == (0, done["new"])

    project = ("--project", "art/film") if form == "giftless" else ()
    target = f"{bucket.options.url}/out"
    out = ran(tmp_path, bucket, "export", target, "--layout", form, "--repo", "game", *project)
    assert out["written"] == done["new"]
    for content in (LARGE, SMALL):
        assert bucket.get(f"out/{path(form, Oid.of(content), 'art/film')}") == content
    assert (
        ran(tmp_path, bucket, "export", target, "--layout", form, "--repo", "game", *project)["known"]
        == done["new"]
    )


def ran(folder: Path, bucket: Bucket, *arguments: str, status: int = 0) -> dict[str, Any]:
    with connect(folder / "store", create=True):
        pass
    common = ("--s3-endpoint", bucket.server.endpoint, "--store", str(folder / "store"), "--json")
    found, out, err = forking.run("forking:command", *arguments, *common, seconds=60)
    assert found == status, out + err
    return dict(json.loads(out))
