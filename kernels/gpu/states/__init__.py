"""Posterior states from sums and rescored samples, merges of them, and answers made of them."""
