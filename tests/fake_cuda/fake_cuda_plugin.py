"""pytest -p fake_cuda_plugin: the fake CUDA device, installed before anything imports torch."""

import fake_device

import fastass  # noqa: F401  before torch: it sets up OpenMP

fake_device.install()
