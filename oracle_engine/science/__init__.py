"""Analyses and figures: the two stages of flow matching, and training on three targets with one expectation."""
