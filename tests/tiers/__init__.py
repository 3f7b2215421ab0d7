import pytest

pytest.register_assert_rewrite("tiers.conformance", "tiers.model", "tiers.remote_conformance")
