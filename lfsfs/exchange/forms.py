"""Forms: how other programs name the files, or keys, of their objects.

| form | below the folder or prefix | whose |
|---|---|---|
| git-lfs | objects/aa/bb/oid | .git/lfs, a bare repository's lfs, a shared lfs.storage; a store of ours |
| gitlab, gitea | aa/bb/rest | GitLab's lfs-objects, Gitea's and Forgejo's lfs |
| giftless | ORG/REPO/oid | giftless, each repository in a folder of its own |
"""

from dataclasses import dataclass
from typing import Literal

from lfsfs.oid import OID_HEX_DIGITS, Oid

Form = Literal["git-lfs", "gitlab", "gitea", "giftless"]
_HEX = frozenset("0123456789abcdef")
_PAIR = 2
_REST_DIGITS = OID_HEX_DIGITS - 2 * _PAIR


@dataclass(frozen=True, slots=True)
class Named:
    """What a path says of the object that lies there: its oid, and the folders before those that the oid itself makes.

    `split`: the last two folders are the first digits of the oid.
    """

    oid: Oid
    above: tuple[str, ...]
    split: bool


def path(form: Form, oid: Oid, repository: str = "") -> str:
    """Where the object lies. `repository`: ORG/REPO, for giftless alone."""
    if form == "giftless":
        return f"{repository}/{oid}"
    if form == "git-lfs":
        return f"objects/{oid.path()}"
    return f"{oid[:2]}/{oid[2:4]}/{oid[4:]}"


def named(parts: tuple[str, ...]) -> Named | None:
    """The object that a path of these parts names, in any of the forms; None where it is no object's."""
    *above, name = parts
    first, second = above[-2:] if len(above) >= 2 else ("", "")
    if is_pair(first) and is_pair(second):
        digits = first + second
        if is_digits(name, _REST_DIGITS):
            return Named(Oid(digits + name), tuple(above[:-2]), True)
        if is_digits(name, OID_HEX_DIGITS) and name.startswith(digits):
            return Named(Oid(name), tuple(above[:-2]), True)
    if is_digits(name, OID_HEX_DIGITS):
        return Named(Oid(name), tuple(above), False)
    return None


def is_pair(name: str) -> bool:
    """Whether a folder may be one of the two that the first digits of an oid make."""
    return is_digits(name, _PAIR)


def is_digits(text: str, number: int) -> bool:
    return len(text) == number and _HEX.issuperset(text)
