"""Timings: how long requests took until they were answered, by operation; of some of them, as a histogram.

Timing a request takes a quarter of a microsecond, and the quickest takes fifteen of the processor in all. So one in
SAMPLED is timed: that is less than half a percent of these, and each operation is met in proportion to how often
it comes.
"""

from lfsfs.fuse.protocol import Opcode

SAMPLED = 11
"""A prime: a program that asks for the same few things in turn is timed at all of them."""
_UNIQUE_STEP = 2  # the kernel numbers requests by twos
EACH = SAMPLED * _UNIQUE_STEP
_SLOTS = 65  # a time's bit length, in nanoseconds; the first is their sum
_BOUNDS = (
    14,
    16,
    18,
    20,
    22,
    24,
    26,
    28,
    30,
    33,
)  # 16 µs, 66 µs, ... 1.1 s, 8.6 s, as powers of two of nanoseconds
NAME = "lfsfs_operation_seconds"


class Timings:
    """Of one mount."""

    def __init__(self) -> None:
        self._slots: dict[int, list[int]] = {}

    def add(self, opcode: int, nanoseconds: int) -> None:
        slots = self._slots.get(opcode)
        if slots is None:
            slots = self._slots[opcode] = [0] * _SLOTS
        slots[nanoseconds.bit_length()] += 1
        slots[0] += nanoseconds

    def rendered(self) -> str:
        """In the text format of Prometheus."""
        lines = [f"# HELP {NAME} From a request of the kernel to its answer; one request in {SAMPLED} is timed.",
                 f"# TYPE {NAME} histogram"]  # fmt: skip
        for opcode, slots in sorted(self._slots.items()):
            label = f'operation="{Opcode(opcode).name.lower()}"'
            count = sum(slots[1:])
            lines += [
                f'{NAME}_bucket{{{label},le="{2**bound / 1e9:g}"}} {sum(slots[1 : bound + 1])}'
                for bound in _BOUNDS
            ]
            lines += [f'{NAME}_bucket{{{label},le="+Inf"}} {count}',
                      f"{NAME}_sum{{{label}}} {slots[0] / 1e9:g}", f"{NAME}_count{{{label}}} {count}"]  # fmt: skip
        return "".join(f"{line}\n" for line in lines)
