"""Encryption at rest: a decorator of tiers, its format, and the keys."""

from lfsfs.tiers.encryption.keys import Keys
from lfsfs.tiers.encryption.masters import (
    CommandKey,
    LocalKey,
    MasterKey,
    key_from_environment,
    key_from_file,
)
from lfsfs.tiers.encryption.ring import Ring, RingKey, WrongKey
from lfsfs.tiers.encryption.tier import EncryptedTier

__all__ = [
    "CommandKey",
    "EncryptedTier",
    "Keys",
    "LocalKey",
    "MasterKey",
    "Ring",
    "RingKey",
    "WrongKey",
    "key_from_environment",
    "key_from_file",
]
