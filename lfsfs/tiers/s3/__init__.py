"""Objects in S3."""

from lfsfs.tiers.s3.tier import S3Tier, open_s3

__all__ = ["S3Tier", "open_s3"]
