"""Measures a trained network: IoU, batch norm statistics, class means, model selection."""
