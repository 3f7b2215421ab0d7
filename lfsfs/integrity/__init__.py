"""Integrity: whether the store has what it says it has, every byte of it; and putting right what is not."""
