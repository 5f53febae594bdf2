"""Packed data sets: checksummed tar shards, written once and memory-mapped for reading."""
