"""Batches of random images on the device, for timing a step without its data."""

from fastass.training.memory.random_batch import random_batch as random_batch
