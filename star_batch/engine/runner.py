"""Runs what the scheduler chose: prefills with pruning between layers, decodes one step.

Introduces the model to the pruning plan's late steps; knows neither's inside, and no picture. Decides nothing: not
who runs, not which token comes next.
"""

import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest

import torch
from torch import Tensor

from star_batch.engine import layout
from star_batch.engine.attention import BatchAttention, PackedPrefill, Span
from star_batch.engine.decode import DecodeInputs, PagedDecode, choose_paged
from star_batch.engine.decode_graph import Capture, DecodeGraphs, capture_cuda
from star_batch.engine.kv_cache import KVCache
from star_batch.engine.prefix import Prefix, Prefixes
from star_batch.engine.scheduler import Budget
from star_batch.engine.sequence import Sequence
from star_batch.engine.stopwatch import Stopwatch
from star_batch.engine.upload import upload
from star_batch.metrics import EngineStats
from star_batch.models import VisionLanguageModel
from star_batch.pruning import PruningPlan


@dataclass(frozen=True, slots=True)
class DecodeTables:
    """Pages `[B, P]`, per layer group, of the rows that decode together; good until one comes or goes."""

    sequences: tuple[Sequence, ...]
    pages: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Sequences of one prefill, and where each lies but for the `prefix` that all of them begin with, if they do."""

    sequences: Seq[Sequence]
    spans: list[Span]
    prefix: Prefix | None

    @property
    def num_before(self) -> int:
        """Tokens of every sequence that are not run again."""
        return 0 if self.prefix is None else self.prefix.length


class Runner:
    """Tensors in and out of one model, under one pruning plan."""

    def __init__(
        self,
        model: VisionLanguageModel,
        plan: PruningPlan,
        cache: KVCache,
        stats: EngineStats,
        *,
        budget: Budget,
        stopwatch: Stopwatch,
        share_prefix: bool,
    ) -> None:
        self.model = model
        self.plan = plan
        self._stats = stats
        self._stopwatch = stopwatch
        self._cache = cache
        self._page_size = budget.page_size
        self._tables = DecodeTables((), ())
        self._prefixes = Prefixes(model) if share_prefix else None
        self._paged_attention = choose_paged(model.device)
        self._graphs: DecodeGraphs | None = None
        if model.device.type == "cuda":
            # Steps run one after the other and their logits are read at once, so all sizes may share their memory.
            self._graphs = self._make_graphs(budget, partial(capture_cuda, pool=torch.cuda.graph_pool_handle()))

    def prefill(self, sequences: Seq[Sequence]) -> Tensor:
        """Next-token logits `[B, V]` after the prompts; late steps cut the sequences between layers."""
        start = time.perf_counter()
        packed = self._pack(sequences)
        hidden = self._embed_prompts(packed)
        positions = layout.original_positions(sequences, self.model.num_axes, packed.num_before)
        for sequence in sequences:
            sequence.note_kept(0, sequence.early_kept)
        for group, layers in enumerate(self.plan.layer_groups):
            hidden, scores = self._prefill_group(group, layers, packed, hidden, positions)
            index, packed = self._going_on(group, packed, scores)
            hidden, positions = hidden[self._put(index)], positions[:, index]
            hidden = self.model.feed_forward(layers[-1], hidden)
        logits = self.model.logits(hidden)
        self._count_prefill(packed)
        for sequence in sequences:
            sequence.clock.prefill_start = start
            sequence.clock.decode_start = time.perf_counter()
        return logits

    def decode(self, sequences: Seq[Sequence]) -> Tensor:
        """Next-token logits `[B, V]` after each sequence's latest token; good until the next step."""
        self._stats.decode_steps += 1
        self._stats.decode_rows += len(sequences)
        tables, numbers = self._decode_tables(sequences), self._decode_numbers(sequences)
        num_held = int(numbers[1 : 1 + len(tables.pages)].sum())
        if self._graphs is not None and (logits := self._graphs.run(numbers, tables.pages)) is not None:
            self._stats.padded_tokens += num_held
            return logits
        inputs = self._trimmed(tables, numbers)
        batch = PagedDecode(self._cache, inputs, self._paged_attention)
        self._stats.padded_tokens += batch.num_read
        self._stats.padding_tokens += batch.num_read - num_held
        return self._step(inputs, batch)

    def forget(self, sequence: Sequence) -> None:
        """Wipe a failed sequence's pages: NaN left there would spread to whoever gets them next."""
        for group, layers in enumerate(self.plan.layer_groups):
            pages = self._put(torch.tensor(sequence.pages[group]))
            for layer in layers:
                self._cache.wipe(layer, pages)

    def _pack(self, sequences: Seq[Sequence]) -> Packed:
        prefix = None
        if self._prefixes is not None:
            prefix = self._prefixes.shared_by([sequence.prompt.texts[0] for sequence in sequences])
        return Packed(sequences, layout.spans_of(sequences, 0 if prefix is None else prefix.length), prefix)

    def _embed_prompts(self, packed: Packed) -> Tensor:
        """Packed embeddings `[T, W]`; the visual places are embedded as token 0 first, then filled."""
        ids: list[int] = []
        for sequence in packed.sequences:
            own: list[int] = []
            for text, image in zip_longest(sequence.prompt.texts, sequence.images):
                own += [*text, *[0] * (image.survivors.counts[0] if image is not None else 0)]
            ids += own[packed.num_before :]
        hidden = self.model.embed(self._put(torch.tensor(ids)))
        places = self._put(layout.visual_index(packed.spans))
        hidden[places] = torch.cat([image.survivors.visual for s in packed.sequences for image in s.images])
        return hidden

    def _prefill_group(
        self, group: int, layers: range, packed: Packed, hidden: Tensor, positions: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Hidden states `[T, W]` after the attention of the group's last layer, and its scores if a late step follows.

        What the step drops, and after the last layer all but the last tokens, needs no feed-forward any more.
        """
        spans, num_before = packed.spans, packed.num_before
        slots = self._put(layout.prompt_slots(packed.sequences, spans, group, self._page_size, num_before))
        score_layer = layers[-1] if self._cuts_after(group, packed.sequences) else None
        batch = PackedPrefill(self._cache, spans, slots, score_layer=score_layer, prefix=packed.prefix)
        is_compact = self.plan.positions == "compact"
        rotary = self.model.rotary(self._put(layout.compact_positions(spans, num_before) if is_compact else positions))
        for layer in layers[:-1]:
            hidden = self.model.attend(layer, hidden, rotary, batch=batch)
            hidden = self.model.feed_forward(layer, hidden)
        return self.model.attend(layers[-1], hidden, rotary, batch=batch), batch.scores

    def _cuts_after(self, group: int, sequences: Seq[Sequence]) -> bool:
        return group < len(self.plan.late) and any(s.counts[group + 1] < s.counts[group] for s in sequences)

    def _going_on(self, group: int, packed: Packed, scores: Seq[Tensor]) -> tuple[Tensor, Packed]:
        """Packed places that go on after the group: what a late step keeps, and at the end the last tokens."""
        if scores:
            places, spans = layout.cut(packed.spans, self._select_late(group, packed.sequences, scores))
            return places, replace(packed, spans=spans)
        if group < len(self.plan.late):
            return torch.arange(packed.spans[-1].end), packed
        return torch.tensor([span.end - 1 for span in packed.spans]), packed

    def _select_late(self, group: int, sequences: Seq[Sequence], scores: Seq[Tensor]) -> list[Tensor]:
        """Which of each sequence's visual tokens go on to the next group, on the host; its images compete."""
        with self._stopwatch.stage("select_seconds"):
            select = self.plan.late[group].select
            counts = [sequence.counts[group + 1] for sequence in sequences]
            kept = [select(score, count) for score, count in zip(scores, counts, strict=True)]
            on_host = list(torch.cat(kept).cpu().split(counts))  # one wait for the device, not one per row
            for sequence, places in zip(sequences, on_host, strict=True):
                sequence.note_kept(group + 1, places)
            return on_host

    def _make_graphs(self, budget: Budget, capture: Capture) -> DecodeGraphs:
        return DecodeGraphs(
            self._decode_paged,
            capture,
            max_rows=budget.max_rows,
            max_pages=min(max(budget.num_pages), -(-self.model.context_length // budget.page_size)),
            page_size=budget.page_size,
            spare_pages=budget.num_pages,
            device=self.model.device,
        )

    def _decode_numbers(self, sequences: Seq[Sequence]) -> Tensor:
        """`DecodeInputs.numbers`, on the host."""
        groups = range(len(self.plan.layer_groups))
        lengths = [[s.cached(group) + 1 for s in sequences] for group in groups]
        positions = [[s.next_position(group, self.plan.positions) for s in sequences] for group in groups]
        return torch.tensor([[s.output[-1] for s in sequences], *lengths, *positions])

    def _decode_tables(self, sequences: Seq[Sequence]) -> DecodeTables:
        if self._tables.sequences != tuple(sequences):
            groups = range(len(self.plan.layer_groups))
            pages = tuple(self._put(layout.padded_pages(sequences, group)) for group in groups)
            self._tables = DecodeTables(tuple(sequences), pages)
        return self._tables

    def _trimmed(self, tables: DecodeTables, numbers: Tensor) -> DecodeInputs:
        """No more pages than the longest row fills by now."""
        most = [-(-int(lengths.max()) // self._page_size) for lengths in numbers[1 : 1 + len(tables.pages)]]
        pages = tuple(table[:, :count] for table, count in zip(tables.pages, most, strict=True))
        return DecodeInputs(self._put(numbers), pages, self._page_size)

    def _decode_paged(self, inputs: DecodeInputs) -> Tensor:
        return self._step(inputs, PagedDecode(self._cache, inputs, self._paged_attention))

    def _step(self, inputs: DecodeInputs, batch: BatchAttention) -> Tensor:
        hidden = self.model.embed(inputs.token_ids)
        for group, layers in enumerate(self.plan.layer_groups):
            rotary = self.model.rotary(inputs.positions(group).unsqueeze(0))
            for layer in layers:
                hidden = self.model.attend(layer, hidden, rotary, batch=batch)
                hidden = self.model.feed_forward(layer, hidden)
        return self.model.logits(hidden)

    def _count_prefill(self, packed: Packed) -> None:
        self._stats.prefill_batches += 1
        self._stats.prefill_rows += len(packed.sequences)
        self._stats.shared_tokens += packed.num_before * len(packed.sequences)
        groups = self.plan.layer_groups
        for sequence in packed.sequences:
            self._stats.prefill_tokens += sequence.length
            self._stats.prompt_tokens += sequence.prompt.num_tokens
            self._stats.visual_tokens += sequence.num_visual
            self._stats.early_tokens += sequence.counts[0]
            self._stats.late_tokens += sequence.counts[-1]
            self._stats.layer_tokens += sum(len(g) * n for g, n in zip(groups, sequence.counts, strict=True))
            self._stats.row_layers += self.plan.num_layers

    def _put(self, tensor: Tensor) -> Tensor:
        return upload(tensor, self.model.device)
