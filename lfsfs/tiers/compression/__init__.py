"""Compression: a decorator of remote tiers, and its format."""

from lfsfs.tiers.compression.remote import CompressedRemote, Room

__all__ = ["CompressedRemote", "Room"]
