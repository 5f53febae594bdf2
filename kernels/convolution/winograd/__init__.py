"""Convolutions on a CPU with fewer multiplications, in the form of Winograd."""
