"""Errors, shapes and dtypes, files, settings and progress: this folder imports no other of the package."""
