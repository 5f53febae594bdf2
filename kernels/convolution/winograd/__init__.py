"""Convolutions on a CPU with fewer multiplications, in Winograd's form: see README.md."""
