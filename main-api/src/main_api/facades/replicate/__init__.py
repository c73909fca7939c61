"""Replicate's API, as far as its client library uses it, under `/replicate/v1`."""
