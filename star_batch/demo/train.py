"""Trains the demo model: `python -m star_batch.demo.train`. Seeded, on the CPU, and able to resume.

Step n depends on the seed and on n alone, so a resumed run goes the way an unbroken one would have gone.
"""

import argparse
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from star_batch.demo.blueprint import build_model, build_processor
from star_batch.demo.dropping import draw_drop, draw_own
from star_batch.demo.losses import (
    Helpers,
    answer_loss,
    attention_loss,
    number_loss,
    presence_loss,
    word_losses,
)
from star_batch.demo.network import Drop, Sight, answer_logits, look
from star_batch.demo.packing import Packed, object_mask, pack, right_pairs, to_pixels
from star_batch.demo.questions import MIX, Kind, choose_questions
from star_batch.demo.scenes import Scene, make_scene, scene_seed

CHECKPOINT = Path(__file__).parent / "checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What is trained for so many steps, and on what."""

    steps: int
    trains_tower: bool = True
    helpers: bool = True
    answers: bool = True
    drop_share: float = 0.7  # of the batches, before the decoder
    attention: float = 0.0  # weight of the loss on the CLS row
    numbers: float = 0.0  # weight of the loss on the word for how many
    power: float = 0.0  # of its length, by which an answer weighs
    mix: Mapping[Kind, int] = field(default_factory=lambda: MIX)
    own_share: float = 0.0  # of the batches: those in which each prompt loses what it reads least, late


STAGES = (
    Stage(steps=2000, answers=False),
    Stage(steps=750, trains_tower=False, drop_share=0.9),
    Stage(steps=250, attention=0.2),
    # Questions that look one thing up are learnt by now; counts and long answers need more weight.
    Stage(steps=1250, attention=0.2, numbers=0.5, power=0.5, mix=MIX | {"count": 3, "caption": 3}),
    # What the answer needs has to move into the text early, as in large models.
    Stage(
        steps=1200, trains_tower=False, helpers=False, power=0.5, mix=MIX | {"caption": 3, "relation": 4}, own_share=0.6
    ),
)
LAST_STAGE = sum(stage.steps for stage in STAGES[:-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    steps: int
    seed: int
    out: Path
    state: Path
    threads: int
    resume: bool
    base: Path | None = None
    batch: int = 32
    pairs: int = 8
    rate: float = 1.5e-3
    warmup: int = 150
    decay: float = 0.3  # share of the steps over which the rate falls to nothing
    every: int = 250  # steps between saved states


@dataclass(slots=True)
class Run:
    """What a training run carries from step to step."""

    model: LlavaForConditionalGeneration
    helpers: Helpers
    optimizer: torch.optim.Optimizer
    step: int = 0


def main(argv: Sequence[str] | None = None) -> None:
    settings = parse(argv)
    torch.set_num_threads(settings.threads)
    run = start(settings)
    train(run, settings)
    save(run.model, settings.out)


def parse(argv: Sequence[str] | None) -> Settings:
    parser = argparse.ArgumentParser(prog="python -m star_batch.demo.train", description=__doc__)
    parser.add_argument("--steps", type=int, default=sum(stage.steps for stage in STAGES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=CHECKPOINT)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--state", type=Path, default=Path("demo-training.pt"), help="saved now and then")
    parser.add_argument("--from", type=Path, dest="base", help="begin the last stage with these weights")
    parser.add_argument("--resume", action="store_true", help="go on from the saved state")
    return Settings(**vars(parser.parse_args(argv)))


def start(settings: Settings) -> Run:
    model = build_model(settings.seed)
    helpers = Helpers(model.config.vision_config.hidden_size)
    parameters = [*model.parameters(), *helpers.parameters()]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.02},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    run = Run(model=model, helpers=helpers, optimizer=torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98)))
    if settings.base is not None:
        load_base(model, settings.base)
        run.step = LAST_STAGE
    if settings.resume:
        load_state(run, settings.state)
    return run


def train(run: Run, settings: Settings) -> None:
    run.model.train()
    started, first = time.monotonic(), run.step
    figures: list[dict[str, float]] = []
    while run.step < settings.steps:
        figures.append(train_step(run, settings))
        run.step += 1
        if run.step % 25 == 0:
            report(run.step, figures[-25:], (time.monotonic() - started) / (run.step - first))
        if run.step % settings.every == 0:
            save_state(run, settings.state)


def train_step(run: Run, settings: Settings) -> dict[str, float]:
    """One batch of fresh scenes; returns the figures to report."""
    rng = random.Random(f"{settings.seed}/{run.step}")
    first = run.step * settings.batch
    scenes = [make_scene(scene_seed("train", settings.seed, first + row)) for row in range(settings.batch)]
    return step_on(run, settings, stage_of(run.step), scenes, rng)


def stage_of(step: int) -> Stage:
    """The stage a step belongs to; the last one goes on as long as there are steps."""
    ends = accumulate(stage.steps for stage in STAGES)
    return next((stage for stage, end in zip(STAGES, ends, strict=True) if step < end), STAGES[-1])


def step_on(run: Run, settings: Settings, stage: Stage, scenes: list[Scene], rng: random.Random) -> dict[str, float]:
    if not stage.answers:
        with autocast():
            losses = helper_losses(run, stage, scenes, look(run.model, to_pixels(scenes)))
        return update(run, settings, losses)
    is_own = rng.random() < stage.own_share
    # Alone, a pair is computed exactly as a job computes it.
    pairs = 1 if is_own and rng.random() < 0.25 else settings.pairs
    packed = pack(scenes, [choose_questions(scene, rng, pairs, stage.mix) for scene in scenes])
    owners = object_mask(scenes)
    with autocast():
        with torch.set_grad_enabled(stage.trains_tower):
            sight = look(run.model, packed.pixels)
        drop = draw_own(owners, sight.attention, rng) if is_own else draw_drop(owners, rng, stage.drop_share)
        logits = answer_logits(run.model, sight.features, packed, drop)
        losses = helper_losses(run, stage, scenes, sight) if stage.helpers else {}
        losses["answer"] = answer_loss(logits, packed, stage.power)
    return update(run, settings, losses) | exact_match(logits, packed, drop)


def autocast() -> torch.autocast:
    """bfloat16 where the processor knows it, a fifth faster; where it does not, ten times as slow as float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())


def helper_losses(run: Run, stage: Stage, scenes: list[Scene], sight: Sight) -> dict[str, Tensor]:
    words, owners = run.model.get_input_embeddings().weight, object_mask(scenes)
    losses = word_losses(run.helpers, sight.features, words, owners, scenes)
    losses["presence"] = presence_loss(run.helpers, sight.cls, scenes)
    if stage.attention:
        losses["attention"] = stage.attention * attention_loss(sight.attention, owners)
    if stage.numbers:
        losses["numbers"] = stage.numbers * number_loss(sight.features, words, scenes)
    return losses


def update(run: Run, settings: Settings, losses: dict[str, Tensor]) -> dict[str, float]:
    for group in run.optimizer.param_groups:
        group["lr"] = settings.rate * schedule(run.step, settings)
    run.optimizer.zero_grad(set_to_none=True)
    sum(losses.values(), start=torch.zeros(())).backward()
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    run.optimizer.step()
    return {name: loss.item() for name, loss in losses.items()}


def schedule(step: int, settings: Settings) -> float:
    """Warm-up for the tower, again for the decoder and for late cuts; a plateau; then straight down to nothing."""
    left = (settings.steps - step) / (settings.decay * settings.steps)
    begun = max(start for start in (0, STAGES[0].steps, LAST_STAGE) if start <= step)
    return min(1.0, (step - begun + 1) / settings.warmup, left)


@torch.no_grad()
def exact_match(logits: Tensor, packed: Packed, drop: Drop) -> dict[str, float]:
    """Share of answers of which every token is right; the key tells whether tokens were left out."""
    asked, right = right_pairs(logits, packed)
    share = (right.sum() / asked.sum()).item()
    if drop.late_share is not None:
        return {f"own {drop.late_share:.2f} from {drop.late_layer}": share}
    return {"whole" if bool(drop.early.all()) and drop.late is None else "dropped": share}


def report(step: int, figures: Sequence[dict[str, float]], seconds: float) -> None:
    names = dict.fromkeys(name for row in figures for name in row)
    means = {name: [row[name] for row in figures if name in row] for name in names}
    text = "  ".join(f"{name} {sum(values) / len(values):.3f}" for name, values in means.items())
    print(f"step {step}  {text}  {seconds:.2f} s/step", file=sys.stderr, flush=True)


def load_base(model: LlavaForConditionalGeneration, base: Path) -> None:
    """Weights of an earlier vocabulary: words that it had not keep their random start."""
    there = LlavaForConditionalGeneration.from_pretrained(base).state_dict()
    for name, value in model.state_dict().items():
        value[: len(there[name])] = there[name]


def save_state(run: Run, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: getattr(run, name).state_dict() for name in ("model", "helpers", "optimizer")}
    torch.save(state | {"step": run.step}, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def load_state(run: Run, path: Path) -> None:
    state = torch.load(path, weights_only=True)
    for name in ("model", "helpers", "optimizer"):
        getattr(run, name).load_state_dict(state[name])
    run.step = state["step"]


def save(model: LlavaForConditionalGeneration, out: Path) -> None:
    """Weights, configuration and processor in the library's format."""
    model.eval().save_pretrained(out)
    build_processor().save_pretrained(out)


if __name__ == "__main__":
    main()
