"""Use a trained network: load it, predict images, folders and videos, export it."""
