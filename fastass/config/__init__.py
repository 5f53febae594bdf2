"""The configuration of a run: schema, text forms, presets and the paper's figures."""
