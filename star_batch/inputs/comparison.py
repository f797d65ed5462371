"""An output compared with the input of its job. Knows no Ray and no engine."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from star_batch.commit.audit import Verdict, verify
from star_batch.commit.layout import read_run
from star_batch.config import Input
from star_batch.errors import OutputError
from star_batch.inputs.base import plan_input
from star_batch.inputs.rows import distinct
from star_batch.storage.location import Location


def compare(output: Location, input: Input) -> Verdict:
    """Read every row that counts and compare with the input's ids.

    Raises:
        OutputError, InputError: one of them cannot be read at all.
    """
    wanted = distinct(plan_input(input, output), "first")[1]
    return verify(output, wanted, keeps_vanished=input.vanished == "keep")


def recorded_input(output: Location, storage_options: Mapping[str, Any]) -> Input:
    """The input as the last run of an output has written it down, without the storage options it had.

    Raises:
        OutputError: no run has, or it cannot be understood.
    """
    record = read_run(output) or {}
    try:
        values = record["config"]["input"]
        return Input.model_validate({**values, "storage_options": dict(storage_options)})
    except (KeyError, TypeError, ValidationError):
        raise OutputError(f"{output.shown} has no record of its input: name it, or compare without it") from None
