"""Figures of a demo checkpoint on held-out scenes: `python -m star_batch.demo.evaluate`.

One question per prompt. A greedy answer is exactly right if and only if every token of the reference, its
end included, is the likeliest one after those before it; so one pass over the references tells, without
generating.
This module does not know how the model was trained.
"""

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from star_batch.demo.network import Drop, Sight, answer_logits, look
from star_batch.demo.packing import object_mask, pack, right_pairs
from star_batch.demo.questions import KINDS, Question, choose_questions
from star_batch.demo.scenes import NUM_PATCHES, Scene, make_scene, scene_seed
from star_batch.report.svg import COLOURS, plot, standalone

CHECKPOINT = Path(__file__).parent / "checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A batch of held-out questions with what the vision tower makes of their images."""

    scenes: list[Scene]
    asked: list[Question]
    sight: Sight
    owners: Tensor  # [B, N], -1 on the background


Choice = Callable[[Encoded], Drop]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m star_batch.demo.evaluate", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--plot", type=Path, help="write how far up the layers read the image, as SVG")
    args = parser.parse_args(argv)
    model = load(args.checkpoint)
    batches = [encode_batch(model, args.seed, first) for first in range(0, args.questions, 100)]
    print(attention_line(batches))
    print(table({name: outcomes(model, batches, choice) for name, choice in CHOICES.items()}))
    by_layer = accuracy_by_layer(model, batches)
    print(layer_lines(by_layer))
    if args.plot is not None:
        args.plot.write_text(layer_picture(by_layer, args.questions), encoding="utf-8")


def load(checkpoint: Path) -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(checkpoint).eval()


@torch.no_grad()
def encode_batch(model: LlavaForConditionalGeneration, seed: int, first: int, count: int = 100) -> Encoded:
    """Held-out scenes `first` to `first + count` of stream `seed` with one question each."""
    scenes = [make_scene(scene_seed("held-out", seed, first + row)) for row in range(count)]
    asked = [choose_questions(scene, random.Random(scene.seed), 1)[0] for scene in scenes]
    pixels = pack(scenes, [[question] for question in asked]).pixels
    return Encoded(scenes=scenes, asked=asked, sight=look(model, pixels), owners=object_mask(scenes))


def keep_all(batch: Encoded) -> Drop:
    return Drop(early=torch.ones_like(batch.owners, dtype=torch.bool))


def keep_objects(batch: Encoded) -> Drop:
    return Drop(early=batch.owners >= 0)


def keep_cls(num_keep: int) -> Choice:
    """The patches the CLS token looks at most."""
    return lambda batch: Drop(early=_top(batch.sight.attention, num_keep))


def keep_star(num_keep: int) -> Choice:
    """As STAR does by default: half as many again early, and a third of these half-way through."""
    return lambda batch: Drop(early=_top(batch.sight.attention, num_keep * 3 // 2), late_share=1 / 3, late_layer=3)


def keep_random(num_keep: int) -> Choice:
    """Patches drawn from the first scene's seed."""
    return lambda batch: Drop(early=_top(_noise(batch), num_keep))


def keep_below(layer: int) -> Choice:
    """Everything below that layer, and nothing from it on."""

    def choose(batch: Encoded) -> Drop:
        everything = torch.ones_like(batch.owners, dtype=torch.bool)
        return Drop(early=everything, late=~everything, late_layer=layer)

    return choose


def _noise(batch: Encoded) -> Tensor:
    return torch.rand(batch.owners.shape, generator=torch.Generator().manual_seed(batch.scenes[0].seed))


def _top(score: Tensor, num_keep: int) -> Tensor:
    return torch.zeros_like(score, dtype=torch.bool).scatter(1, score.topk(num_keep, dim=1).indices, True)


CHOICES: dict[str, Choice] = {
    f"all {NUM_PATCHES}": keep_all,
    "objects only": keep_objects,
    "CLS 36": keep_cls(36),
    "CLS 18": keep_cls(18),
    "STAR 36": keep_star(36),
    "STAR 18": keep_star(18),
    "random 36": keep_random(36),
    "random 18": keep_random(18),
}


def outcomes(
    model: LlavaForConditionalGeneration, batches: Sequence[Encoded], choice: Choice
) -> list[tuple[Question, bool]]:
    """Every question with whether it was answered exactly."""
    return [pair for batch in batches for pair in zip(batch.asked, answer_batch(model, batch, choice), strict=True)]


@torch.no_grad()
def answer_batch(model: LlavaForConditionalGeneration, batch: Encoded, choice: Choice) -> list[bool]:
    """Which questions are answered exactly when the decoder sees the chosen visual tokens alone."""
    packed = pack(batch.scenes, [[question] for question in batch.asked])
    logits = answer_logits(model, batch.sight.features, packed, choice(batch))
    _, right = right_pairs(logits, packed)
    return [bool(row) for row in right[:, 0]]


def attention_line(batches: Sequence[Encoded]) -> str:
    """Share of the CLS attention that falls on objects, beside the objects' share of the patches."""
    share = torch.cat([(batch.sight.attention * (batch.owners >= 0)).sum(1) for batch in batches]).mean()
    area = torch.cat([(batch.owners >= 0).float().mean(1) for batch in batches]).mean()
    ratio = share / area
    return f"CLS attention on objects {share:.3f}, their share of the patches {area:.3f}, ratio {ratio:.2f}\n"


def accuracy_by_layer(model: LlavaForConditionalGeneration, batches: Sequence[Encoded]) -> list[float]:
    """Accuracy when no layer from the first, the second ... on sees the image; the last: all layers see it."""
    depth = len(model.model.language_model.layers)
    results = [outcomes(model, batches, keep_below(layer)) for layer in range(depth + 1)]
    return [sum(right for _, right in result) / len(result) for result in results]


def layer_lines(by_layer: Sequence[float]) -> str:
    """How far the text has taken over what it needs."""
    lines = [f"| {layer} | {100 * accuracy:.1f} |" for layer, accuracy in enumerate(by_layer)]
    return "\n".join(["", "| layers that see the image | right, % |", "|---:|---:|", *lines])


def layer_picture(by_layer: Sequence[float], num_questions: int) -> str:
    """The same as SVG."""

    def draw(axes: Any) -> None:
        percent = [100 * accuracy for accuracy in by_layer]
        axes.plot(range(len(percent)), percent, marker="o", color=COLOURS["first"])
        for layer, value in enumerate(percent):
            axes.annotate(f"{value:.0f}", (layer, value), (0, 7), textcoords="offset points", ha="center")
        axes.set_ylim(0, 110)
        axes.set_title(f"Exact answers in percent of {num_questions:,} questions", loc="left", fontsize=11, pad=12)
        axes.set_xlabel("first layers that see the image; the others see the text alone", loc="left")
        axes.grid(True, axis="y")

    return standalone(plot("Accuracy by the number of layers that see the image", draw, 5.6, 3.2))


def table(results: dict[str, list[tuple[Question, bool]]]) -> str:
    """Exact match in percent, a row per kind of question and a column per choice of tokens."""
    lines = [f"| kind | questions | {' | '.join(results)} |", f"|---|---:|{'---:|' * len(results)}"]
    for kind in (*KINDS, "all"):
        rows = [[right for asked, right in result if kind in (asked.kind, "all")] for result in results.values()]
        cells = " | ".join(f"{100 * sum(row) / max(1, len(row)):.1f}" for row in rows)
        lines.append(f"| {kind} | {len(rows[0])} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
