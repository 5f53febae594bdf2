"""The paper's tables: which runs they are made of, running those, and what the runs give."""
