"""A process that verifies, repairs or rebuilds a damaged store until a fault kills it.

`run(SCENARIO, STORE)`, with LFSFS_FAULT=kill:N (lfsfs/durable.py).
"""

import trio
from forking import command

from lfsfs import open_store
from lfsfs.integrity import survey
from lfsfs.integrity.verification import Scope, Verification


def verify(store: str) -> int:
    async def work() -> None:
        async with open_store(store) as opened:
            await Verification(opened, Scope(), parallel=1).run()

    trio.run(work)
    return 0


def fsck(store: str) -> int:
    return command("fsck", "--repair", "--store", store)


def rebuild(store: str) -> int:
    return command("index", "rebuild", "--store", store)


SCENARIOS = {scenario.__name__: scenario for scenario in (verify, fsck, rebuild)}


def run(scenario: str, store: str) -> None:
    survey.SETTLE_SECONDS = 0.01  # nobody else is at work
    status = SCENARIOS[scenario](store)
    print("done", status, flush=True)
