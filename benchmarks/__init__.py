"""Timings side by side: the U-Net with diffusers (`make bench`), the site with a stock build (`make bench-site`)."""
