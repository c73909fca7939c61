"""Enlarges pictures with Stable Diffusion x4 or Swin2SR, over HTTP."""
