"""Convolutions with what surrounds them in the same kernel, for a GPU: forms that are timed."""
