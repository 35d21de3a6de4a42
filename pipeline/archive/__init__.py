"""Paths -> bytes, concurrently and gently."""
