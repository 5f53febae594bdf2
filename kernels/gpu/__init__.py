"""The Triton kernels, how they are launched, and what the gate compiles of them (`AOT`)."""
