"""Which upscalers there are, and how their files become networks."""
