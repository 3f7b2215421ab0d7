"""What `lfsfs sync --wait` waits for, it says."""

from pathlib import Path

import pytest

from lfsfs import open_store
from lfsfs.cli.remote import _sync
from lfsfs.config import CacheOptions, S3Options, S3Url
from lfsfs.errors import Unavailable
from lfsfs.store import journal


async def test_a_sync_that_ends_in_vain_says_what_s3_has_not_got(tmp_path: Path) -> None:
    nowhere = S3Options(
        S3Url("bucket"), endpoint="http://127.0.0.1:9", access_key_id="one", secret_access_key="two"
    )
    async with open_store(tmp_path, create=True, remote=(nowhere, CacheOptions())) as store:
        await store.add_repository("film")
        row = await store.put(b"content" * 1000, repository="film")
        with pytest.raises(
            Unavailable, match=r"got: 1 object \(6.8 KiB\) and the record of what this machine"
        ):
            await _sync(store, wait=True, seconds=0.5)
        await store.index.update(lambda tx: journal.leave(tx, row.oid))
        with pytest.raises(Unavailable, match="got: the record of what this machine refers to"):
            await _sync(store, wait=True, seconds=0.5)
        assert (
            str(await _sync(store, wait=False, seconds=None)) == "the record of what this machine refers to"
        )
