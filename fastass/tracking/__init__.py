"""What long work tells while it runs: plain lines, or a live view on a terminal."""
