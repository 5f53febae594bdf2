"""Batch norm with what follows it, on a GPU: two kernels forward, two backward."""
