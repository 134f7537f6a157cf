"""Packed folders: what preparation finds is kept beside the shards, so that the next start computes nothing."""
