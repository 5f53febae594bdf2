"""What stands and moves in ToyCity's streets."""
