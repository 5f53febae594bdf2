"""What a run is configured with: the schema, its text forms, presets and the paper's figures."""
