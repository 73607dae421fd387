"""Every run of the tests is the same run: hypothesis draws its examples from a fixed seed."""

from hypothesis import settings

settings.register_profile("book", derandomize=True, deadline=None, database=None)
settings.load_profile("book")
