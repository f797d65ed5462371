"""Small outputs for the tests of the commit protocol."""

import pyarrow as pa

from star_batch.commit.fingerprint import Fingerprint
from star_batch.commit.snapshots import Epoch, next_epoch, open_epoch, read_snapshot
from star_batch.records import Answer, to_table
from star_batch.storage.location import Location


def answers(*ids: str, failed: int = 0) -> pa.Table:
    made = [Answer(id=id, text="yes") for id in ids]
    made[:failed] = [Answer(id=id, error="bad", error_kind="image_missing") for id in ids[:failed]]
    return to_table(made, model="m", fingerprint="f")


FINGERPRINT = Fingerprint({"pruning.keep": 0.5, "model.dtype": "auto"})


def opened(output: Location, fingerprint: Fingerprint = FINGERPRINT) -> Epoch:
    """A new epoch in which everything that counted goes on to count."""
    seen = read_snapshot(output)
    epoch = next_epoch(output, seen, fingerprint)
    open_epoch(epoch, seen.commits, fingerprint)
    return epoch
