"""The pipeline moves: records stream from the input through engines to the output, on Ray Data.

Ray lives here and nowhere below. This door imports none of it; it only sets what Ray and others read when they are.
"""

import os

from star_batch.home import caches_elsewhere

# Under `uv run`, Ray would copy the folder and have uv install everything anew for its workers: gigabytes and
# minutes for what is there already. Ray reads this when it is imported.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# Other libraries read then where their files lie; here, because each process of a cluster comes by.
os.environ.update(caches_elsewhere(os.environ))
