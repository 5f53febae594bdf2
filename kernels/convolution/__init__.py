"""Convolutions with what surrounds them, each in the form that the device runs fastest."""
