"""The Triton kernels, how they are launched, and what the gate compiles of them (`AOT`).

Importing a module of this folder imports Triton, so an operator does it where it gets CUDA tensors.
"""
