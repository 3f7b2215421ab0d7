"""While S3 is away, whoever waits for it holds up nobody else."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from gitlfs.mounted import Mount, lfsfs

from lfsfs.oid import Oid

from .proxy import Proxy
from .servers import Server

MIB = 1 << 20
READERS = 50  # more than the kernel sends at once by default, and than the daemon has threads
PATIENCE = 8.0  # seconds that reads of what is local may take beside them, on a busy machine


@pytest.mark.promise("7.5")
@pytest.mark.slow
@pytest.mark.mount
@pytest.mark.timeout(120)
def test_readers_that_wait_for_s3_do_not_hold_up_what_is_local(
    rgw_server: Server, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", rgw_server.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", rgw_server.secret_access_key)
    url = str(rgw_server.options().url).replace(" ", "-")
    remote = os.urandom((READERS + 12) * MIB)
    with Mount(tmp_path / "a", "--s3", url, "--s3-endpoint", proxy.endpoint) as a:
        (a.path / "incoming" / "large").write_bytes(remote)
        lfsfs("sync", "--wait", "--store", a.store)
    with Mount(tmp_path / "b", "--s3", url, "--s3-endpoint", proxy.endpoint) as b:
        large = b.path / "objects" / Oid.of(remote).path()
        with large.open("rb") as file:  # from now on all is known here but the other blocks
            assert file.read(10) == remote[:10]
        local = os.urandom(8 * MIB)
        (b.path / "incoming" / "local").write_bytes(local)
        lfsfs("sync", "--wait", "--store", b.store)
        proxy.down()
        readers = [
            subprocess.Popen(
                ["dd", f"if={large}", "bs=1M", "count=1", f"skip={12 + number}"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for number in range(READERS)
        ]
        try:
            time.sleep(1)
            begun = time.monotonic()
            Path("/proc/sys/vm/drop_caches").write_text("3")
            assert (b.path / "objects" / Oid.of(local).path()).read_bytes() == local
            (b.path / "incoming" / "more").write_bytes(b"more")
            assert (b.path / "incoming" / "more").read_bytes() == b"more"
            assert time.monotonic() - begun < PATIENCE
            assert all(reader.poll() is None for reader in readers), (
                "they still wait: else this shows nothing"
            )
            proxy.up()
            assert [reader.wait(60) for reader in readers] == [0] * READERS
        finally:
            for reader in readers:
                reader.kill()
                reader.wait()
