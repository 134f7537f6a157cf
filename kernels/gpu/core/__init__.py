"""What every Triton kernel stands on: devices, tiles and their configurations, limits, and shared steps."""
