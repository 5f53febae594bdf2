"""Ahead-of-time compilation of the Triton kernels for GPUs that are not there."""
