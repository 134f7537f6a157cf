"""Searches through the levels of a screen: which rows may matter to late queries."""
