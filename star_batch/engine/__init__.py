"""The engine schedules: batches by post-pruning length, a paged KV cache, slots refilled while decoding.

Knows no Ray, no files and no storage.
"""

from star_batch.engine.engine import Engine

__all__ = ["Engine"]
