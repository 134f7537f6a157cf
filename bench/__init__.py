"""Speed of the engine beside its peers, on the same data, in one process: `python -m bench`."""
