"""Samples that are scored again by direct difference: which, in what digits, and what they add up to."""
