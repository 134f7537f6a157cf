"""Scans from work to states: over a span of the rows, or over segments of them."""
