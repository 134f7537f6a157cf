"""What a process runs on: settings of its environment, devices, and machines of a cluster."""
