"""Numbers that other rooms share with a job's defaults. Imports nothing, so that they cost nothing."""

MAX_IMAGE_PIXELS = 178_956_970
"""What Pillow opens at most."""

RETRY_SECONDS = 300.0
"""Storages have bad minutes."""
