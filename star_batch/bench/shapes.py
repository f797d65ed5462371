"""Models by their sizes alone, as plain numbers: what is measured with random weights, without a download.

Knows no tensor; `subject` makes models of them.
"""

from dataclasses import dataclass

from star_batch.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """A CLIP encoder of square images: `side` pixels in patches of `patch`."""

    width: int
    layers: int
    heads: int
    mlp: int
    side: int = 336
    patch: int = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """A LLaMA."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocabulary: int
    context: int = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A LLaVA; its features are those of the tower's last layer but one."""

    tower: Tower
    decoder: Decoder


_VIT_L = Tower(width=1024, layers=24, heads=16, mlp=4096)

SHAPES = {
    "tiny": Shape(
        tower=Tower(width=32, layers=3, heads=4, mlp=48, side=56, patch=7),
        decoder=Decoder(width=48, layers=4, heads=4, kv_heads=2, mlp=64, vocabulary=128, context=512),
    ),
    "94m": Shape(
        tower=Tower(width=256, layers=6, heads=4, mlp=1024),
        decoder=Decoder(width=768, layers=12, heads=12, kv_heads=12, mlp=2048, vocabulary=2000),
    ),
    "llava-1.5-7b": Shape(
        tower=_VIT_L,
        decoder=Decoder(width=4096, layers=32, heads=32, kv_heads=32, mlp=11008, vocabulary=32064),
    ),
    "llava-1.5-13b": Shape(
        tower=_VIT_L,
        decoder=Decoder(width=5120, layers=40, heads=40, kv_heads=40, mlp=13824, vocabulary=32064),
    ),
}


def shape_named(name: str) -> Shape:
    """Raises:
    ConfigError: there is no shape of that name.
    """
    if name not in SHAPES:
        raise ConfigError(f"shape {name!r} is not known; choose one of {', '.join(SHAPES)}")
    return SHAPES[name]
