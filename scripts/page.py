"""The page that the demonstration prints: numbered steps, commands with their times, claims that were checked."""

import os
import sys

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
WIDTH = 78


class Failed(Exception):
    """A command failed, or a claim does not hold."""


class Page:
    """What is printed: numbered steps, commands with the time they took, claims that were checked."""

    def __init__(self) -> None:
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._bold, self._dim, self._green, self._red, self._plain = (
            ("\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[0m") if colour else ("",) * 5
        )
        self._steps = 0
        self.claims = 0

    def say(self, text: str = "") -> None:
        print(text, flush=True)

    def title(self, text: str) -> None:
        self.say(f"{self._bold}{text}{self._plain}")

    def step(self, text: str) -> None:
        self._steps += 1
        self.say()
        self.title(f"{self._steps:2}  {text}")

    def note(self, text: str) -> None:
        for line in text.splitlines():
            self.say(f"    {line}")

    def quote(self, text: str) -> None:
        for line in text.splitlines():
            self.say(f"      {self._dim}|{self._plain} {line}")

    def command(self, line: str, seconds: float, size: int = 0) -> None:
        speed = f"{amount(int(size / seconds))}/s" if size else ""
        shown = line if len(line) <= WIDTH - 28 else f"{line[: WIDTH - 31]}..."
        dots = "." * (WIDTH - 28 - len(shown))
        self.say(f"    {shown} {self._dim}{dots}{self._plain} {seconds:6.2f} s {speed:>13}".rstrip())

    def claim(self, holds: bool, text: str) -> None:
        """Prints what holds, and fails with what does not."""
        if not holds:
            raise Failed(f"this does not hold: {text}")
        self.claims += 1
        self.say(f"    {self._green}ok{self._plain}  {text}")

    def failure(self, text: str) -> None:
        self.say(f"\n{self._red}{text}{self._plain}")


def amount(size: int) -> str:
    """A size for people: 1 B, 4.0 KiB, 258.3 MiB."""
    if size < KIB:
        return f"{size} B"
    unit, word = next((u, w) for u, w in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")) if size >= u)
    return f"{size / unit:.1f} {word}"
