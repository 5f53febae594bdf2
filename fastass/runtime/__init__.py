"""What a process runs on and with: device, process group, signals, memory, files."""
