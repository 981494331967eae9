"""Functional Diffusion Processes (arXiv 2303.00800)."""
