"""Generative Fractional Diffusion Models (arXiv 2310.17638)."""
