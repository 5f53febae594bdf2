"""Reading data: images per second of each loader, on your files or on generated ones."""
