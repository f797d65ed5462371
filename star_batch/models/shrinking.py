"""How much smaller an image may be decoded than it is, for a checkpoint's image processor. Knows no pixels.

A JPEG can be decoded at a half, a quarter or an eighth of its sides for a part of the time. The image processor resizes
what comes either way; it must find at least twice the pixels that it wants on each side, and make the same shape.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from transformers.image_processing_utils import select_best_resolution
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

FACTORS = (8, 4, 2)
"""What JPEG decoders can divide both sides by, best first."""

_MARGIN = 2


class _Resized(NamedTuple):
    """What an image processor makes of an image: the sides that it resizes to, and what its output's shape is by."""

    height: float
    width: float
    shape: tuple[int, ...] = ()


_Rule: TypeAlias = Callable[[Any, int, int], _Resized]
_Sizes: TypeAlias = tuple[set[str], ...]


def can_shrink(images: Any) -> bool:
    """Whether it is known what this image processor resizes to."""
    return _rule(images) is not None


def shrink(images: Any, size: tuple[int, int]) -> int:
    """By how much both sides of an upright image of `size` (width, height) may be divided: 8, 4, 2 or, not at all, 1.

    `images`: the library's image processor. One that is not known here gets whole images.
    """
    rule = _rule(images)
    if rule is None:
        return 1
    width, height = size
    wanted = rule(images, height, width)
    for factor in FACTORS:
        if min((height // factor) / wanted.height, (width // factor) / wanted.width) < _MARGIN:
            continue
        if rule(images, -(-height // factor), -(-width // factor)).shape == wanted.shape:
            return factor
    return 1


def _rule(images: Any) -> _Rule | None:
    kind = type(images)
    if not kind.__module__.startswith("transformers.") or not images.do_resize:
        return None
    known = _RULES.get(kind.__name__.removesuffix("Pil").removesuffix("Fast"))
    return known[0] if known is not None and set(dict(images.size)) in known[1] else None


def _one_view(images: Any, height: int, width: int) -> _Resized:
    """To a fixed size; or the short side to one, and the middle cut out: then all images have one shape."""
    size = images.size
    if size.height and size.width:
        return _Resized(size.height, size.width)
    edge = size.shortest_edge
    longest = int(edge * max(height, width) / min(height, width))  # as the library rounds it
    sides = (edge, longest) if height <= width else (longest, edge)
    return _Resized(sides[0], sides[1], () if images.do_center_crop else sides)


def _tiles(images: Any, height: int, width: int) -> _Resized:
    """An overview, stretched, and tiles of the image in the best of some frames: LLaVA-NeXT's."""
    side = images.size.shortest_edge or images.size.height
    frame = select_best_resolution((height, width), images.image_grid_pinpoints)
    scale = min(frame[0] / height, frame[1] / width)
    return _Resized(max(side, height * scale), max(side, width * scale), shape=tuple(frame))


def _native(images: Any, height: int, width: int) -> _Resized:
    """To a multiple of merged patches near its own size, within limits: the Qwen family's."""
    factor = images.patch_size * images.merge_size
    size = images.size
    sides = smart_resize(height, width, factor, min_pixels=size.shortest_edge, max_pixels=size.longest_edge)
    return _Resized(sides[0], sides[1], sides)


# Each with the sizes that its rule knows: with a longest side as well, an image is resized in another way.
_ONE: _Sizes = ({"height", "width"}, {"shortest_edge"})
_RULES: dict[str, tuple[_Rule, _Sizes]] = {
    "CLIPImageProcessor": (_one_view, _ONE),
    "LlavaImageProcessor": (_one_view, _ONE),
    "SiglipImageProcessor": (_one_view, _ONE),
    "LlavaNextImageProcessor": (_tiles, _ONE),
    "Qwen2VLImageProcessor": (_native, ({"shortest_edge", "longest_edge"},)),
}
