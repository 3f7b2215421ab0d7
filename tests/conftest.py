"""What all tests share: how long hypothesis looks for a counterexample."""

from hypothesis import settings

settings.register_profile("lfsfs", deadline=None)  # a busy machine is no counterexample
settings.register_profile("torture", deadline=None, max_examples=5_000)  # scripts/torture
settings.load_profile("lfsfs")
