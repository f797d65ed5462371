"""Mixed lengths through the real scheduler with sequences of nothing but numbers: how full are the batches?

Visual tokens from 32 to 576, prompts and answers log-normal. No model runs and no clock: a prefill and a decode
step are events, and what is counted is positions and slots. Knows no tensor.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from star_batch.engine import sequence
from star_batch.engine.scheduler import Budget, Scheduler
from star_batch.engine.sequence import SamplingParameters
from star_batch.models import Prompt

_VISUAL = (32, 576)
_PROMPT = (3.2, 0.6)  # log-normal: median 25 tokens, one in six above 45
_ANSWER = (2.7, 0.8)  # median 15, one in six above 33
_MOST_PROMPT, _MOST_ANSWER = 512, 256
_PREFILL_TOKENS = 8192
_PAGE = 16


@dataclass(frozen=True, slots=True)
class Length:
    """One request by its numbers: tokens that enter the decoder, and tokens of its answer."""

    visual: int
    prompt: int
    answer: int

    @property
    def prefill(self) -> int:
        return self.visual + self.prompt


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy made of the mix.

    `prefill_padding`: share of the positions that held nothing if every prefill batch were padded to its longest
    row; ours is packed and pays none of it, but kernels like equal lengths. `occupancy`: share of decode slots that
    held a row that was not done. `key_padding`: share of the keys read in decoding that held nothing.
    """

    policy: str
    prefills: int
    rows_per_prefill: float
    prefill_padding: float
    decode_steps: int
    occupancy: float
    key_padding: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOutcome:
    """How full the batches of a policy were in the real engine, and how fast its rows came out."""

    batches: Outcome
    rows_per_second: float


@dataclass(slots=True)
class Tally:
    """What a policy's batches held, added up."""

    slots: int
    prefills: int = 0
    rows: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    steps: int = 0
    row_steps: int = 0
    keys: int = 0
    padded_keys: int = 0

    def prefill(self, lengths: Sequence[int]) -> None:
        self.prefills += 1
        self.rows += len(lengths)
        self.tokens += sum(lengths)
        self.padded_tokens += max(lengths) * len(lengths)

    def decode(self, contexts: Sequence[int], num_rows: int, longest: int) -> None:
        """`contexts` of rows that go on, among `num_rows` that are computed and padded to `longest`."""
        self.steps += 1
        self.row_steps += len(contexts)
        self.keys += sum(contexts)
        self.padded_keys += num_rows * longest

    def outcome(self, policy: str) -> Outcome:
        return Outcome(
            policy=policy,
            prefills=self.prefills,
            rows_per_prefill=self.rows / self.prefills,
            prefill_padding=1 - self.tokens / self.padded_tokens,
            decode_steps=self.steps,
            occupancy=self.row_steps / max(1, self.steps * self.slots),
            key_padding=1 - self.keys / max(1, self.padded_keys),
        )


def make_mix(count: int, seed: int = 0) -> list[Length]:
    """The same for the same seed."""
    source = random.Random(seed)
    return [
        Length(
            visual=source.randint(*_VISUAL),
            prompt=min(_lognormal(source, *_PROMPT), _MOST_PROMPT),
            answer=min(_lognormal(source, *_ANSWER), _MOST_ANSWER),
        )
        for _ in range(count)
    ]


def _lognormal(source: random.Random, mean: float, deviation: float) -> int:
    return max(1, round(source.lognormvariate(mean, deviation)))


def compare_policies(mix: Sequence[Length], slots: int) -> list[Outcome]:
    """Static batches, slots refilled in the order of arrival, and like lengths together: what the engine does."""
    return [
        _static(mix, slots).outcome("static batches"),
        _scheduled(mix, slots, look_ahead=0).outcome("arrival order, slots refilled"),
        _scheduled(mix, slots, look_ahead=slots).outcome("like lengths, slots refilled"),
    ]


def _static(mix: Sequence[Length], slots: int) -> Tally:
    """As many rows as there are slots, in the order of arrival; nobody leaves before the last is done."""
    tally = Tally(slots)
    for first in range(0, len(mix), slots):
        batch = mix[first : first + slots]
        longest = max(length.prefill for length in batch)
        tally.prefill([length.prefill for length in batch])
        for step in range(1, max(length.answer for length in batch)):
            going_on = [length.prefill + step for length in batch if step < length.answer]
            tally.decode(going_on, len(batch), longest + step)
    return tally


def _scheduled(mix: Sequence[Length], slots: int, look_ahead: int) -> Tally:
    """The engine's own scheduler, which may choose among `look_ahead` waiting rows; 0 is strict arrival order."""
    tally, arrivals = Tally(slots), list(map(_sequence, mix))[::-1]
    scheduler = Scheduler(_budget(mix, slots))
    while arrivals or scheduler.waiting or scheduler.running:
        for arrived in _arrived(arrivals, scheduler, look_ahead):
            scheduler.add(arrived)
        batch = scheduler.schedule()
        assert batch is not None
        if batch.phase == "prefill":
            tally.prefill([row.length for row in batch.sequences])
        else:
            contexts = [row.cached(0) + 1 for row in batch.sequences]
            tally.decode(contexts, len(contexts), max(contexts))
        _extend(batch.sequences)
        scheduler.remove_finished()
    return tally


def _arrived(arrivals: list[sequence.Sequence], scheduler: Scheduler, look_ahead: int) -> Iterator[sequence.Sequence]:
    """Who comes in before the next step: a full set to choose from, or exactly those that run next."""
    if look_ahead:
        for _ in range(min(look_ahead - len(scheduler.waiting), len(arrivals))):
            yield arrivals.pop()
        return
    free, tokens = scheduler.budget.max_rows - len(scheduler.running), 0
    if free < min(max(1, scheduler.budget.max_rows // 8), len(arrivals)):
        return
    while free and arrivals and tokens + arrivals[-1].length <= scheduler.budget.max_prefill_tokens:
        free, tokens = free - 1, tokens + arrivals[-1].length
        yield arrivals.pop()


def _sequence(length: Length) -> sequence.Sequence:
    return sequence.Sequence(
        id="",
        prompt=Prompt(((0,) * length.prompt, ())),
        num_visual=length.visual,
        counts=(length.visual,),
        sampling=SamplingParameters(max_new_tokens=length.answer),
    )


def _budget(mix: Sequence[Length], slots: int) -> Budget:
    """Memory enough for every slot, so that only slots and the prefill's tokens decide."""
    most = max(length.prefill + length.answer for length in mix)
    pages = slots * -(-most // _PAGE)
    return Budget(max_rows=slots, max_prefill_tokens=_PREFILL_TOKENS, page_size=_PAGE, num_pages=(pages,))


def _extend(rows: Sequence[sequence.Sequence]) -> None:
    for row in rows:
        row.output.append(0)
        if len(row.output) >= row.sampling.max_new_tokens:
            row.finish_reason = "length"
