"""Using a trained network: loading one, and predicting images, folders and videos with it."""
