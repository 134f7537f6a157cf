"""What every launch of a Triton kernel stands on: devices, tiles and their configurations, and limits."""
