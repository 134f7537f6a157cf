"""Rows that stay outside of the memory that is computed in: what they are, and passes that read them in blocks."""
