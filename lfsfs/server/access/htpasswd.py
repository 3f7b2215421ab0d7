"""htpasswd files, as Apache and nginx have them: NAME:HASH, a line each."""

from collections.abc import Mapping
from pathlib import Path

from lfsfs.errors import InvalidConfig
from lfsfs.server.access.passwords import check_hash
from lfsfs.server.access.users import NOBODIES, check_user_name


def parse_htpasswd(file: Path, content: bytes) -> Mapping[str, str]:
    """The hashes by name. InvalidConfig, with the line: also for MD5, SHA-1 and crypt, which protect nobody."""
    found: dict[str, str] = {}
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, stored = line.partition(":")
        try:
            if name in NOBODIES:
                raise InvalidConfig(f"{name} is nobody")
            found[check_user_name(name)] = check_hash(stored.strip())
        except InvalidConfig as error:
            raise InvalidConfig(f"{file}:{number}: {error}") from error
    return found
