"""Somebody's own package, as `tests/test_plugins.py` installs it. Nothing of star_batch knows it."""
