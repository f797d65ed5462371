"""Which rows every process is at work on, and which of them are suspects because a process died with them.

A process that died said nothing: its death is noticed when its rows come again from another process. All rows
that it had in flight are suspects then, and from there on run alone in their process, in pieces that shrink
with every further death, until a row was the only one in its process often enough to be the cause.
Knows no Ray, no engine and no storage.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Rows: TypeAlias = tuple[str, ...]

_FAN_OUT = 4
"""Pieces per death. Halves would take twice as many deaths, and a death costs more than a small piece: the
process has to load its model again."""


@dataclass(frozen=True, slots=True)
class Process:
    """One life of one actor."""

    actor: str
    life: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """What is to be done with the rows of a window.

    `is_safe`: run them as they are, beside other windows; they are written down already. Otherwise each piece
    has to `begin`, alone in its process. `quarantined` rows, with what is known of their crimes, are not run.
    """

    pieces: tuple[Rows, ...]
    is_safe: bool = True
    quarantined: Mapping[str, str] = field(default_factory=dict)


class Attempts:
    """Every row is in at most one attempt at a time; a row's limit never grows, so everything comes to an end."""

    def __init__(self, max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._attempts: dict[Process, list[Rows]] = {}
        self._holders: dict[str, Process] = {}
        self._limits: dict[str, int] = {}
        self._deaths_alone: Counter[str] = Counter()
        self._deaths_in_a_row: Counter[str] = Counter()
        self._words: dict[Process, str] = {}
        self._causes: dict[str, str] = {}
        self.deaths = 0
        self.last_words = ""

    def open(self, process: Process, ids: Rows, hearsay: str = "") -> Dispatch:
        """A window arrives in a process; if no row of it is a suspect it counts as begun.

        `hearsay` is what others say of a death that was not heard of before.
        """
        for holder in {self._holders.get(id, process) for id in ids} - {process}:
            self._mark_dead(holder, hearsay)
        quarantined = {id: self._verdict(id) for id in ids if self._deaths_alone[id] >= self._max_attempts}
        suspects = [id for id in ids if id in self._limits]
        if suspects:
            rest = [id for id in ids if id not in quarantined]
            return Dispatch(pieces=tuple(cut(rest, self._limits)), is_safe=False, quarantined=quarantined)
        self._write_down(process, ids)
        return Dispatch(pieces=(ids,) if ids else ())

    def begin(self, process: Process, ids: Rows) -> None:
        """These rows run alone in the process: whatever it had begun before is finished, also if that was not heard."""
        self._forget(process)
        self._write_down(process, ids)

    def finish(self, process: Process, ids: Rows) -> None:
        """Nothing died of these rows."""
        self._deaths_in_a_row[process.actor] = 0
        if ids in self._attempts.get(process, ()):
            self._attempts[process].remove(ids)
            self._release(ids)

    def leave(self, process: Process, words: str) -> None:
        """The process is about to end itself, and says why."""
        self._words[process] = words

    def deaths_in_a_row(self, actor: str) -> int:
        """Deaths of an actor since any of its rows has finished: many of them are no row's fault."""
        return self._deaths_in_a_row[actor]

    def _write_down(self, process: Process, ids: Rows) -> None:
        if ids:
            self._attempts.setdefault(process, []).append(ids)
            self._holders.update(dict.fromkeys(ids, process))

    def _forget(self, process: Process) -> list[Rows]:
        attempts = self._attempts.pop(process, [])
        for ids in attempts:
            self._release(ids)
        return attempts

    def _release(self, ids: Rows) -> None:
        for id in ids:
            self._holders.pop(id, None)

    def _mark_dead(self, process: Process, hearsay: str) -> None:
        attempts, self.last_words = self._forget(process), self._words.pop(process, hearsay)
        self.deaths += 1
        self._deaths_in_a_row[process.actor] += 1
        for ids in attempts:
            limit = math.ceil(len(ids) / _FAN_OUT)
            for id in ids:
                self._limits[id] = min(limit, self._limits.get(id, limit))
        if [len(ids) for ids in attempts] == [1]:
            [[culprit]] = attempts
            self._deaths_alone[culprit] += 1
            self._causes[culprit] = self.last_words

    def _verdict(self, id: str) -> str:
        deaths, cause = self._deaths_alone[id], self._causes[id]
        times = "once" if deaths == 1 else f"{deaths} times"
        return f"crashed its worker {times}" + (f": {cause}" if cause else "")


def cut(ids: Sequence[str], limits: Mapping[str, int]) -> Iterator[Rows]:
    """Runs of neighbours, none longer than the limit of any row in it."""
    piece: list[str] = []
    longest = len(ids)
    for id in ids:
        longest = min(longest, limits.get(id, longest))
        if len(piece) + 1 > longest:
            yield tuple(piece)
            piece, longest = [], min(len(ids), limits.get(id, len(ids)))
        piece.append(id)
    if piece:
        yield tuple(piece)


def most_deaths(rows: int, max_attempts: int) -> int:
    """How many processes a single row of a window of `rows` can kill."""
    levels = 0
    while rows > 1:
        rows, levels = math.ceil(rows / _FAN_OUT), levels + 1
    return max(levels, 1) + max_attempts
