"""How a log record is written: one line for people, or one JSON object for machines. Knows no terminal and no job.

A record quotes ids, paths and replies: none of them may break its line or send control characters to a terminal.
"""

import json
import logging
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from star_batch.wording import line, lines


class OneLine(logging.Formatter):
    """A record is one line whatever it quotes; a traceback has the lines that Python gives it."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return lines(super().formatException(ei))


class JsonLine(JsonFormatter):
    """One object on one line; its message reads as it does in text, its other values are what they are."""

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        return super().process_log_record(log_data | {"message": line(log_data.get("message", ""))})

    def format(self, record: logging.LogRecord) -> str:
        # JSON leaves C1, U+2028 and the like as they are; the characters outside of its texts are all printable.
        return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in super().format(record))


def json_lines(job: str | None) -> JsonLine:
    """Records as JSON with their time, their level and the job's name."""
    return JsonLine(
        ["levelname", "message"],
        rename_fields={"levelname": "level"},
        static_fields={"job": job},
        timestamp="ts",
        json_ensure_ascii=False,
    )
