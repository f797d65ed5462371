"""The pipeline moves: records stream from Parquet through engines back to Parquet, on Ray Data.

Ray lives here and nowhere below.
"""

from star_batch.metrics import Progress
from star_batch.pipeline.backend import Backend
from star_batch.pipeline.run import run

__all__ = ["Backend", "Progress", "run"]
