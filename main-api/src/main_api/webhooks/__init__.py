"""Telling a client's own server how its jobs go: where to, signed how, and again until it arrives."""
