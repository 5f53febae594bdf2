"""Progress of long work: plain lines or a live view, and metrics for other services."""
