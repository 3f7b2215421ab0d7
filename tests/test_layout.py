"""Making a store."""

import threading
from pathlib import Path

from lfsfs.store.layout import open_layout

MAKERS = 8


def test_a_store_that_many_make_at_once_has_one_identity(tmp_path: Path) -> None:
    found: list[str] = []
    ready = threading.Barrier(MAKERS)

    def make() -> None:
        ready.wait()
        found.append(open_layout(tmp_path / "store", create=True).id)

    makers = [threading.Thread(target=make) for _ in range(MAKERS)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert len(found) == MAKERS
    assert len(set(found)) == 1
