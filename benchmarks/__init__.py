"""Timings side by side with diffusers: `make bench`."""
