import pytest

pytest.register_assert_rewrite("tiers.conformance", "tiers.model")
