"""Compression: a decorator of remote tiers, and its format."""

from lfsfs.tiers.compression.remote import CompressedRemote

__all__ = ["CompressedRemote"]
