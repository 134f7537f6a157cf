"""The processes that answer together: what they compare and exchange, and whether each is still there."""
