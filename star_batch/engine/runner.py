"""Runs what the scheduler chose: encodes images, prefills with pruning between layers, decodes one step.

Introduces the model to the pruning plan; knows neither's inside. Decides nothing: not who runs, not
which token comes next.
"""

import time
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from star_batch.engine import layout
from star_batch.engine.attention import BatchAttention, GatheredDecode, InPlaceDecode, PackedPrefill
from star_batch.engine.kv_cache import KVCache
from star_batch.engine.sequence import EncodedImage, Sequence
from star_batch.metrics import EngineStats
from star_batch.models import ImageFeatures, VisionLanguageModel
from star_batch.pruning import PruningPlan, VisualTokens, everything

_COPY_BYTES = 65536  # on CPU, gathering less than this per row and layer is cheaper than a kernel call per row


@dataclass(frozen=True, slots=True)
class DecodeTables:
    """Where the rows that decode together lie, per layer group; good until one comes or goes.

    `slots [B, S]` of each row, padded; `starts` the first slot of each row that can be read in place.
    """

    sequences: tuple[Sequence, ...]
    slots: list[Tensor]
    starts: list[list[int | None]]


class Runner:
    """Tensors in and out of one model, under one pruning plan."""

    def __init__(
        self,
        model: VisionLanguageModel,
        plan: PruningPlan,
        cache: KVCache,
        stats: EngineStats,
        *,
        page_size: int,
        vision_batch: int,
    ) -> None:
        self.model = model
        self.plan = plan
        self.stats = stats
        self._cache = cache
        self._page_size = page_size
        self.vision_batch = vision_batch
        self._tables = DecodeTables((), [], [])
        self._inner_seconds = 0.0

    def encode(self, sequences: Seq[Sequence]) -> list[EncodedImage]:
        """The images of at most `vision_batch` sequences, pruned early; only what is kept is projected.

        The encoder and the selection always see the same shape, so their rounding does not depend on company.
        """
        with self.timed("vision_seconds"):
            images = self.model.encode(self._pixels(sequences))
        with self.timed("select_seconds"):
            kept = self._select_early(sequences, images)
            on_host = kept.cpu()
        with self.timed("vision_seconds"):
            survivors = torch.cat([features[places] for features, places in zip(images.features, kept, strict=True)])
            projected = self.model.project(survivors).split(kept.shape[1])
        self.stats.vision_batches += 1
        self.stats.vision_images += len(sequences)
        return [EncodedImage(on_host[i], projected[i]) for i in range(len(sequences))]

    def prefill(self, sequences: Seq[Sequence]) -> Tensor:
        """Next-token logits `[B, V]` after the prompts; late steps cut the sequences between layers."""
        start = time.perf_counter()
        hidden = self._embed_prompts(sequences)
        positions = layout.original_positions(sequences)
        for sequence in sequences:
            sequence.note_kept(0, sequence.encoded.kept)
        for group, layers in enumerate(self.plan.layer_groups):
            hidden, scores = self._prefill_group(group, layers, sequences, hidden, positions)
            index = self._survivors(group, sequences, scores)
            hidden, positions = hidden[self._put(index)], positions[index]
            hidden = self.model.feed_forward(layers[-1], hidden)
        logits = self.model.logits(hidden)
        self._count_prefill(sequences)
        for sequence in sequences:
            sequence.clock.prefill_start = start
            sequence.clock.decode_start = time.perf_counter()
        return logits

    def decode(self, sequences: Seq[Sequence]) -> Tensor:
        """Next-token logits `[B, V]` after each sequence's latest token."""
        hidden = self.model.embed(self._put(torch.tensor([s.output[-1] for s in sequences])))
        batch = self._decode_batch(sequences)
        for group, layers in enumerate(self.plan.layer_groups):
            positions = [s.next_position(group, self.plan.positions) for s in sequences]
            rotary = self.model.rotary(self._put(torch.tensor(positions)))
            for layer in layers:
                hidden = self.model.attend(layer, hidden, rotary, batch=batch)
                hidden = self.model.feed_forward(layer, hidden)
        self.stats.decode_steps += 1
        self.stats.decode_rows += len(sequences)
        return self.model.logits(hidden)

    def forget(self, sequence: Sequence) -> None:
        """Wipe a failed sequence's pages: NaN left there would spread to whoever gets them next."""
        for group, layers in enumerate(self.plan.layer_groups):
            slots = self._put(layout.row_slots(sequence.pages[group], self._page_size))
            for layer in layers:
                self._cache.wipe(layer, slots)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds wall time to a stage of the stats; what a stage inside it took is counted there alone.

        A stage ends when its work on the device does; every step ends with tokens on the host, so little is lost.
        """
        self._wait_for_device()
        start, outer = time.perf_counter(), self._inner_seconds
        self._inner_seconds = 0.0
        yield
        self._wait_for_device()
        elapsed = time.perf_counter() - start
        setattr(self.stats, stage, getattr(self.stats, stage) + elapsed - self._inner_seconds)
        self._inner_seconds = outer + elapsed

    def _wait_for_device(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)

    def _pixels(self, sequences: Seq[Sequence]) -> Tensor:
        images = [sequence.pixels for sequence in sequences if sequence.pixels is not None]
        padding = [np.zeros_like(images[0])] * (self.vision_batch - len(images))
        return self._put(torch.from_numpy(np.stack(images + padding)))

    def _select_early(self, sequences: Seq[Sequence], images: ImageFeatures) -> Tensor:
        """Indices `[vision_batch, K]` kept of every image; images of one shape have one budget."""
        num_images, num_visual, _ = images.features.shape
        num_keep = sequences[0].counts[0]
        if self.plan.early is None or num_keep == num_visual:
            return everything(num_visual, images.features.device).expand(num_images, -1)
        seeds = [sequence.seed for sequence in sequences]
        padding = [0] * (num_images - len(seeds))
        return self.plan.early(VisualTokens(images.attention, images.features, (*seeds, *padding)), num_keep)

    def _embed_prompts(self, sequences: Seq[Sequence]) -> Tensor:
        """Packed embeddings `[T, W]`; the visual places are embedded as token 0 first, then filled."""
        ids = [token for s in sequences for token in (*s.prompt.before, *[0] * s.counts[0], *s.prompt.after)]
        hidden = self.model.embed(self._put(torch.tensor(ids)))
        places = self._put(layout.visual_index(layout.spans_of(sequences, 0)))
        hidden[places] = torch.cat([s.encoded.visual for s in sequences])
        return hidden

    def _prefill_group(
        self, group: int, layers: range, sequences: Seq[Sequence], hidden: Tensor, positions: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Hidden states `[T, W]` after the attention of the group's last layer, and its scores if a late step follows.

        What the step drops, and after the last layer all but the last tokens, needs no feed-forward any more.
        """
        spans = layout.spans_of(sequences, group)
        slots = self._put(layout.prompt_slots(sequences, spans, group, self._page_size))
        score_layer = layers[-1] if self._cuts_after(group, sequences) else None
        batch = PackedPrefill(self._cache, spans, slots, score_layer)
        is_compact = self.plan.positions == "compact"
        rotary = self.model.rotary(self._put(layout.compact_positions(spans) if is_compact else positions))
        for layer in layers[:-1]:
            hidden = self.model.attend(layer, hidden, rotary, batch=batch)
            hidden = self.model.feed_forward(layer, hidden)
        return self.model.attend(layers[-1], hidden, rotary, batch=batch), batch.scores

    def _cuts_after(self, group: int, sequences: Seq[Sequence]) -> bool:
        return group < len(self.plan.late) and any(s.counts[group + 1] < s.counts[group] for s in sequences)

    def _survivors(self, group: int, sequences: Seq[Sequence], scores: Seq[Tensor]) -> Tensor:
        """Packed places that go on after the group: what a late step keeps, and at the end the last tokens."""
        if scores:
            return self._select_late(group, sequences, scores)
        spans = layout.spans_of(sequences, group)
        if group < len(self.plan.late):
            return torch.arange(spans[-1].end)
        return torch.tensor([span.end - 1 for span in spans])

    def _select_late(self, group: int, sequences: Seq[Sequence], scores: Seq[Tensor]) -> Tensor:
        """Packed places that go on to the next group."""
        with self.timed("select_seconds"):
            select = self.plan.late[group].select
            counts = [sequence.counts[group + 1] for sequence in sequences]
            kept = [select(score, count) for score, count in zip(scores, counts, strict=True)]
            on_host = torch.cat(kept).cpu().split(counts)  # one wait for the device, not one per row
            for sequence, places in zip(sequences, on_host, strict=True):
                sequence.note_kept(group + 1, places)
            return layout.kept_index(layout.spans_of(sequences, group), on_host)

    def _decode_batch(self, sequences: Seq[Sequence]) -> BatchAttention:
        if self.model.device.type == "cpu" and self._mean_row_bytes(sequences) > _COPY_BYTES:
            return self._in_place_batch(sequences)
        return self._gathered_batch(sequences)

    def _mean_row_bytes(self, sequences: Seq[Sequence]) -> float:
        return self._cache.token_bytes * sum(s.cached(0) for s in sequences) / len(sequences)

    def _in_place_batch(self, sequences: Seq[Sequence]) -> InPlaceDecode:
        tables = self._decode_tables(sequences)
        new_slots, rows = [], []
        for group, (slots, starts) in enumerate(zip(tables.slots, tables.starts, strict=True)):
            lengths = [s.cached(group) + 1 for s in sequences]
            new_slots.append(slots[range(len(lengths)), torch.tensor(lengths) - 1])
            rows.append(
                [
                    slice(start, start + length) if start is not None else row[:length]
                    for start, length, row in zip(starts, lengths, slots, strict=True)
                ]
            )
            self.stats.padded_tokens += sum(lengths)
        return InPlaceDecode(self._cache, new_slots, rows)

    def _gathered_batch(self, sequences: Seq[Sequence]) -> GatheredDecode:
        tables = self._decode_tables(sequences)
        new_slots, slots, held = [], [], []
        for group, table in enumerate(tables.slots):
            cached = torch.tensor([s.cached(group) for s in sequences])
            longest = int(cached.max()) + 1
            is_held = torch.arange(longest) <= cached.unsqueeze(1)
            self.stats.padded_tokens += is_held.numel()
            self.stats.padding_tokens += is_held.numel() - int(cached.sum()) - len(sequences)
            new_slots.append(table.gather(1, self._put(cached).unsqueeze(1)).squeeze(1))
            slots.append(table[:, :longest])
            held.append(self._put(is_held))
        return GatheredDecode(self._cache, new_slots, slots, held)

    def _decode_tables(self, sequences: Seq[Sequence]) -> DecodeTables:
        if self._tables.sequences != tuple(sequences):
            groups = range(len(self.plan.layer_groups))
            slots = [self._put(layout.padded_slots(sequences, group, self._page_size)) for group in groups]
            starts = [[layout.first_slot(s.pages[group], self._page_size) for s in sequences] for group in groups]
            self._tables = DecodeTables(tuple(sequences), slots, starts)
        return self._tables

    def _count_prefill(self, sequences: Seq[Sequence]) -> None:
        self.stats.prefill_batches += 1
        self.stats.prefill_rows += len(sequences)
        groups = self.plan.layer_groups
        for sequence in sequences:
            self.stats.prefill_tokens += sequence.length
            self.stats.prompt_tokens += sequence.prompt.num_tokens
            self.stats.visual_tokens += sequence.num_visual
            self.stats.early_tokens += sequence.counts[0]
            self.stats.late_tokens += sequence.counts[-1]
            self.stats.layer_tokens += sum(len(g) * n for g, n in zip(groups, sequence.counts, strict=True))
            self.stats.row_layers += self.plan.num_layers

    def _put(self, tensor: Tensor) -> Tensor:
        if self.model.device.type == "cuda":
            tensor = tensor.pin_memory()  # only from pinned memory does a copy not wait
        return tensor.to(self.model.device, non_blocking=True)
