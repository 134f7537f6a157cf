"""Portable."""
