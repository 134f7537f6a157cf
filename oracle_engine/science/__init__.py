"""Science."""
