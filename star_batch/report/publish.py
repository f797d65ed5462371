"""Puts a job's report into its output. A report that cannot be drawn is said so and harms nothing.

Knows no Ray; what is on the page is the report's business.
"""

import logging
from dataclasses import replace

from star_batch.commit.layout import REPORT, read_run
from star_batch.report import Report, render
from star_batch.report.samples import read_samples
from star_batch.storage.location import Location

logger = logging.getLogger(__name__)


def publish(output: Location, report: Report, fingerprint: str) -> None:
    """Draw and write `OUT/report.html`; never raises, as no job is worth less for a picture."""
    try:
        output.at(REPORT).write_bytes(page(output, report, fingerprint))
    except Exception as error:
        logger.warning("%s: the report was not written: %s: %s", output.shown, type(error).__name__, error)


def page(output: Location, report: Report, fingerprint: str) -> bytes:
    """The page with what the output itself knows: the record of the run, and the samples."""
    run, samples = read_run(output) or {}, read_samples(output, fingerprint)
    return render(replace(report, run=run, samples=samples)).encode()
