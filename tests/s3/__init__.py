"""The S3 tier, on real servers and through a proxy that fails on purpose."""
