"""Many ranks: whether they start the same run, and which of them is slow."""
