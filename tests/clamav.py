"""A real clamd, as its own process, with a socket and a signature database of the test's own."""

import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from gitlfs.mounted import within

MARK = b"LFSFS-TEST-SIGNATURE-7f3a91"
"""What the database takes for a virus, wherever in a file it is."""
FINDING = "Lfsfs.Test.Marked.UNOFFICIAL"  # so clamd calls what is not in its own database
LARGEST = 4 << 20
"""Bytes: clamd takes no more (StreamMaxLength)."""
START_SECONDS = 60
_CONFIG = """
LocalSocket {folder}/clamd.sock
DatabaseDirectory {folder}/db
TemporaryDirectory {folder}
Foreground yes
LogFile {folder}/clamd.log
MaxThreads 4
StreamMaxLength {largest}
"""


class Clamav:
    """clamd in a folder of its own, below /tmp: a socket's path may have 107 bytes, and AppArmor in Debian lets
    clamd write there only. `start` and `stop` may be repeated.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="lfsfs-clamd-", dir="/tmp"))
        self.socket = self.folder / "clamd.sock"
        self._process: subprocess.Popen[bytes] | None = None
        (self.folder / "db").mkdir()
        # A signature of the extended format: name, any type of file, any place in it, the bytes (clamav.net, "NDB").
        (self.folder / "db" / "test.ndb").write_text(
            f"{FINDING.removesuffix('.UNOFFICIAL')}:0:*:{MARK.hex()}\n"
        )
        (self.folder / "clamd.conf").write_text(_CONFIG.format(folder=self.folder, largest=LARGEST))

    @property
    def address(self) -> str:
        return f"unix:{self.socket}"

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["clamd", "--config-file", self.folder / "clamd.conf"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert within(START_SECONDS, self._answers), (self.folder / "clamd.log").read_text(errors="replace")

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as asked:
                asked.settimeout(5)
                asked.connect(str(self.socket))
                asked.sendall(b"zPING\0")
                return asked.recv(100) == b"PONG\0"
        except OSError:
            return False

    def stop(self) -> None:
        """Nothing answers there any more."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(20)
            self._process = None
        self.socket.unlink(missing_ok=True)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)
