"""Loaders: which sample comes when, its augmentation, and batches by Pillow or DALI."""
