"""What stands between a client and a server: a proxy, TLS."""

import subprocess
from pathlib import Path

from gitlfs.mounted import within


class nginx:  # noqa: N801 - `with nginx(...)`
    """Debian's nginx as a proxy, with everything it writes in a folder."""

    def __init__(self, folder: Path, port: int, target: str) -> None:
        self.folder = folder / "nginx"
        self.folder.mkdir()
        places = "".join(
            f"{kind}_temp_path {self.folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.folder / "nginx.conf").write_text(
            f"daemon off; user root; pid {self.folder}/pid; error_log {self.folder}/error;\n"
            "events {}\n"
            f"http {{ access_log off; client_max_body_size 0; {places}"
            f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {target};"
            " proxy_set_header Host $http_host; proxy_request_buffering off; proxy_buffering off;"
            " proxy_http_version 1.1; } } }\n"
        )

    def __enter__(self) -> None:
        self._process = subprocess.Popen(
            ["nginx", "-c", self.folder / "nginx.conf", "-e", self.folder / "error"],
            stderr=subprocess.DEVNULL,
        )
        assert within(20, lambda: (self.folder / "pid").exists())

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self._process.wait(20)


def self_signed(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key
