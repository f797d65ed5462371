"""Scenes and their questions as tensors: several question-answer pairs share one image in one sequence.

The pairs do not see each other, and the positions of each begin right after the image, so a packed answer is
trained exactly as it is asked for later: one question per prompt. This module does not know the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from star_batch.demo.blueprint import EOS, PAD, PIXEL_MEAN, PIXEL_STD, build_tokenizer
from star_batch.demo.drawing import render
from star_batch.demo.questions import Question
from star_batch.demo.scenes import NUM_PATCHES, Scene, thing_patches

IGNORED = -100


@cache
def encode(text: str) -> tuple[int, ...]:
    """Token ids of a text without the beginning-of-sequence token."""
    return tuple(_tokenizer().encode(text, add_special_tokens=False))


_tokenizer = cache(build_tokenizer)


def prefix_ids() -> tuple[int, ...]:
    """What stands before the image."""
    return tuple(_tokenizer().encode("USER:"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """`B` images with the pairs of each, padded to `T` text tokens; `owner` numbers the pairs from 1.

    `target` is the next token where an answer is to be predicted and `IGNORED` elsewhere. Padding has the owner
    after the last pair's.
    """

    pixels: Tensor  # [B, 3, 168, 168]
    ids: Tensor  # [B, T]
    owner: Tensor  # [B, T]
    position: Tensor  # [B, T]
    target: Tensor  # [B, T]
    is_prompt: Tensor  # bool [B, T]: the question and what follows it, up to the answer

    num_pairs: int  # the most that an image has

    @property
    def num_owners(self) -> int:
        """Pairs, the padding, and 0: what belongs to all."""
        return self.num_pairs + 2


def pack(scenes: Sequence[Scene], asked: Sequence[Sequence[Question]]) -> Packed:
    """One row per scene, holding all that is asked about it."""
    rows = [_pack_row(pairs) for pairs in asked]
    width = max(row.shape[1] for row in rows)
    fill = np.array([[PAD], [len(max(asked, key=len)) + 1], [0], [IGNORED], [0]])
    padded = np.stack([np.hstack([row, fill.repeat(width - row.shape[1], axis=1)]) for row in rows])
    ids, owner, position, target, is_prompt = torch.from_numpy(padded).unbind(1)
    return Packed(
        pixels=to_pixels(scenes),
        ids=ids,
        owner=owner,
        position=position,
        target=target,
        is_prompt=is_prompt.bool(),
        num_pairs=len(max(asked, key=len)),
    )


def _pack_row(pairs: Sequence[Question]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    return np.hstack([_pack_pair(pair, owner) for owner, pair in enumerate(pairs, start=1)])


def _pack_pair(pair: Question, owner: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    prompt, answer = encode(f"{pair.text} ASSISTANT:"), (*encode(pair.answer), EOS)
    ids = (*prompt, *answer[:-1])
    start = len(prefix_ids()) + NUM_PATCHES
    target = (*[IGNORED] * (len(prompt) - 1), *answer)
    is_prompt = [place < len(prompt) for place in range(len(ids))]
    return np.array([ids, [owner] * len(ids), range(start, start + len(ids)), target, is_prompt], dtype=np.int64)


def to_pixels(scenes: Sequence[Scene]) -> Tensor:
    """What the processor would make of the rendered scenes, `[B, 3, 168, 168]`."""
    pictures = np.stack([np.asarray(render(scene)) for scene in scenes])
    return (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - PIXEL_MEAN) / PIXEL_STD


def object_mask(scenes: Sequence[Scene]) -> Tensor:
    """Where each thing is, numbered from 0 in reading order, -1 for background: int64 `[B, 144]`."""
    mask = torch.full((len(scenes), NUM_PATCHES), -1)
    for row, scene in zip(mask, scenes, strict=True):
        for number, thing in enumerate(scene.things):
            row[thing_patches(thing)] = number
    return mask


def right_pairs(logits: Tensor, packed: Packed) -> tuple[Tensor, Tensor]:
    """Which pairs were asked, and of which every answer token is the likeliest: bool `[B, pairs]` each."""
    is_answer = packed.target != IGNORED
    is_wrong = torch.zeros_like(is_answer)
    is_wrong[is_answer] = logits.argmax(-1) != packed.target[is_answer]
    pairs = torch.arange(1, int(packed.owner[is_answer].max()) + 1)
    mine = packed.owner[:, None, :] == pairs[:, None]  # [B, pairs, T]
    asked, failed = (mine & is_answer[:, None]).any(2), (mine & is_wrong[:, None]).any(2)
    return asked, asked & ~failed
