"""Counted: a sink that knows what went through it, so that a fetch can go on where it was cut."""

from lfsfs.tiers.remote import Sink


class Counted:
    """`total`: bytes that went through it. `failed`: whether it is the sink itself that raised."""

    def __init__(self, sink: Sink) -> None:
        self.total = 0
        self.failed = False
        self._sink = sink

    def __call__(self, piece: bytes) -> None:
        try:
            self._sink(piece)
        except BaseException:
            self.failed = True
            raise
        self.total += len(piece)
