"""MIME types, as they are told from a file's first bytes."""

import magic

from lfsfs.store import packs, rendered

HEAD_BYTES = 4096  # what the type is told from


def type_of(head: bytes) -> str:
    """The MIME type that libmagic tells from a file's first bytes. Takes it a millisecond or two."""
    obvious = obvious_type(head)
    if obvious:
        return obvious
    found = magic.from_buffer(head, mime=True)
    return found if "/" in found else "application/octet-stream"


def obvious_type(head: bytes) -> str:
    """The MIME type of what nobody needs to look at closely; "" of everything else."""
    if not head:
        return "application/x-empty"
    if head.startswith(packs.MAGIC):
        return packs.CONTENT_TYPE
    return rendered.CONTENT_TYPE if rendered.is_candidate(head) else ""
