"""What schemathesis has to be told: how a piece of a tus upload is written."""

from typing import Any

import schemathesis


@schemathesis.serializer("application/offset+octet-stream")
def piece(ctx: Any, value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)
