"""Packed data sets: checksummed tar shards, written once and read by memory map."""
