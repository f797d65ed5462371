"""What a row is: which files there are, their columns, and where images come from. Knows no Ray and no engine."""

from star_batch.inputs.base import Format, format_of, plan_input, register_format
from star_batch.inputs.pieces import Piece
from star_batch.inputs.rows import InputPlan

__all__ = ["Format", "InputPlan", "Piece", "format_of", "plan_input", "register_format"]
