"""Latents as the projects write them: their files, their labels, and the normalisation that they need."""
