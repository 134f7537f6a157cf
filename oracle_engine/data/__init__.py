"""Data sets: readers of files, built-in sets, latents, and OracleDataset, which prepares samples for queries."""
