"""First contact: everything that a GPU has to be asked, in one command with a budget of time."""
