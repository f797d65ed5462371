"""How each family sees: pictures, features and attention held against the library's own processors and towers."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, LlavaNextImageProcessorPil, LlavaNextProcessor, Qwen2VLImageProcessorPil

from star_batch.errors import ImageUnreadable, PromptInvalid
from star_batch.models import Checkpoint, Preprocessor, family_of
from star_batch.records import Picture
from tests.engine.reference import Library
from tests.families import FAMILIES, PINPOINTS, QWEN_TEMPLATE, SIZES
from tests.tiny import random_image, save_tiny, tokenizer

QWEN = ["qwen2_vl", "qwen2_5_vl"]
NEXT = ["llava_next", "llava_next-siglip"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    return cache(lambda family: FAMILIES[family](tmp_path_factory.mktemp(family)))


@pytest.fixture(scope="module")
def loaded(saved: Callable[[str], str]) -> Callable[[str], tuple[Any, Preprocessor]]:
    """Our adapter and preprocessor of a family."""

    def load(family: str) -> tuple[Any, Preprocessor]:
        checkpoint = Checkpoint(name=saved(family))
        preprocessor = Preprocessor.from_checkpoint(checkpoint)
        model = family_of(checkpoint, checkpoint.config()).load(
            checkpoint,
            dtype=torch.float32,
            device=torch.device("cpu"),
            normalisation=preprocessor.normalisation,
            attention="sdpa",
        )
        return model, preprocessor

    return cache(load)


@torch.inference_mode()
def encode(model: Any, picture: Picture) -> Any:
    return model.encode(torch.from_numpy(picture.views).unsqueeze(0), [picture.size])


@pytest.mark.parametrize("size", SIZES)
def test_tiles_equal_the_librarys(saved: Callable[[str], str], loaded: Callable[[str], Any], size: Any) -> None:
    """Overview and tiles, padding included, after normalising."""
    _, preprocessor = loaded("llava_next")
    image = random_image(1, size)
    expected = LlavaNextImageProcessorPil.from_pretrained(saved("llava_next"))(image, return_tensors="np")
    picture, scheme = preprocessor.picture(image), preprocessor.normalisation
    normalised = (picture.views * scheme.scale - np.array(scheme.mean)) / np.array(scheme.std)
    assert np.allclose(np.moveaxis(normalised, -1, 1), expected["pixel_values"][0], atol=1e-5)
    assert picture.size == tuple(expected["image_sizes"][0])


@pytest.mark.parametrize("size", [*((w, h) for w in range(7, 400, 41) for h in range(5, 400, 37)), (2000, 40)])
def test_an_image_has_as_many_tokens_as_the_library_makes_room_for(
    loaded: Callable[[str], Any], size: tuple[int, int]
) -> None:
    model, _ = loaded("llava_next")
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(image_grid_pinpoints=PINPOINTS),
        tokenizer=tokenizer(),
        patch_size=14,
        vision_feature_select_strategy="full",
    )
    width, height = size
    expected = processor._get_number_of_features(height, width, 56, 56)
    assert len(model._tiling.tokens((height, width))) == expected


@pytest.mark.parametrize("family", QWEN)
@pytest.mark.parametrize("size", SIZES)
def test_patches_equal_the_librarys(
    saved: Callable[[str], str], loaded: Callable[[str], Any], family: str, size: Any
) -> None:
    """From the image that travels, cut and normalised again on the device."""
    model, preprocessor = loaded(family)
    image = random_image(1, size)
    expected = Qwen2VLImageProcessorPil.from_pretrained(saved(family))(image, return_tensors="pt")
    picture = preprocessor.picture(image)
    normalised = model._normalise(torch.from_numpy(picture.views))[0]
    assert torch.allclose(model._patches(normalised), expected["pixel_values"], atol=1e-5)
    assert model.layout(picture).num_visual * 4 == expected["image_grid_thw"].prod()


@contextmanager
def eager_maps(visual: Any) -> Iterator[list[Tensor]]:
    """Attention maps `[H, P, P]` of all calls of a tower of the library, softmaxed in the plainest way."""
    maps: list[Tensor] = []

    def attend(
        _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *, scaling: float, **_: Any
    ) -> tuple[Tensor, None]:
        weights = (query @ key.mT * scaling).softmax(dim=-1)
        maps.append(weights[0])
        return (weights @ value).transpose(1, 2), None

    AttentionInterface.register("maps_of_a_test", attend)
    before, visual.config._attn_implementation = visual.config._attn_implementation, "maps_of_a_test"
    yield maps
    visual.config._attn_implementation = before


@pytest.mark.parametrize("family", QWEN)
@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_a_merged_token_receives_what_its_four_patches_receive(
    saved: Callable[[str], str], loaded: Callable[[str], Any], family: str, size: Any
) -> None:
    """In the order of the image, whatever order the windows are computed in: each token is found by its features."""
    model, preprocessor = loaded(family)
    image = random_image(2, size)
    found = encode(model, preprocessor.picture(image))
    visual = _library(saved(family)).model.model.visual
    inputs = Qwen2VLImageProcessorPil.from_pretrained(saved(family))(image, return_tensors="pt")
    with eager_maps(visual) as maps:
        hidden = visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).last_hidden_state
    tokens = hidden.view(-1, 4 * hidden.shape[-1])
    origin = torch.cdist(found.features[0].double(), tokens.double()).argmin(dim=1)
    assert origin.sort().values.equal(torch.arange(len(tokens)))
    received = maps[-1].mean(dim=1).view(2, -1, 4).sum(dim=-1)
    assert torch.allclose(found.attention[0, :, 0], received[:, origin], atol=1e-6)
    if family == "qwen2_5_vl" and size == (80, 64):
        assert not origin.equal(torch.arange(len(tokens))), "no window is out of order, so nothing was tested"


@cache
def _library(checkpoint: str) -> Library:
    return Library(checkpoint)


@pytest.mark.parametrize("family", NEXT)
@torch.inference_mode()
def test_attention_of_tiles_lies_where_their_tokens_lie(
    saved: Callable[[str], str], loaded: Callable[[str], Any], family: str
) -> None:
    """A wide image: overview, then row by row through both tiles, without padding and newlines."""
    model, preprocessor = loaded(family)
    image = random_image(3, (110, 40))
    found = encode(model, preprocessor.picture(image))
    tower = _library(saved(family)).model.model.vision_tower
    inputs = LlavaNextImageProcessorPil.from_pretrained(saved(family))(image, return_tensors="pt")
    seen = tower(inputs["pixel_values"][0], output_attentions=True).attentions[-2]
    per_view = seen[:, :, 0, 1:] if family == "llava_next" else seen.mean(dim=2)
    base, left, right = per_view.unflatten(-1, (4, 4))
    both = torch.cat([left, right], dim=-1)  # 4 rows of 8; the image fills 40/110 of 112 pixels: 2 rows each way fall
    expected = torch.cat([base.flatten(1), both[:, 1:3].flatten(1)], dim=-1) / 3
    assert torch.allclose(found.attention[0, :, 0], expected, atol=1e-6)
    newlines = sorted(set(range(16 + 2 * 9)) - set(found.places.tolist()))
    assert newlines == [16 + 8, 16 + 17]


@pytest.mark.parametrize("family", [*QWEN, *NEXT])
@pytest.mark.parametrize("change", [{"views": (2, 56, 56, 3)}, {"views": (1, 57, 56, 3)}, {"views": (56, 56, 3)}])
def test_a_picture_of_another_checkpoint_is_refused(
    loaded: Callable[[str], Any], family: str, change: dict[str, tuple[int, ...]]
) -> None:
    model, _ = loaded(family)
    with pytest.raises(ImageUnreadable, match="expected uint8"):
        model.layout(Picture(np.zeros(change["views"], np.uint8), (112, 112)))


@pytest.mark.parametrize("family", ["llava", *NEXT, *QWEN])
def test_a_prompt_has_a_place_for_every_image(loaded: Callable[[str], Any], family: str) -> None:
    _, preprocessor = loaded(family)
    for num_images in (1, 2, 5):
        prompt = preprocessor.prompt("w1 w2", num_images=num_images)
        assert prompt.num_images == num_images
        assert prompt.num_tokens == sum(map(len, prompt.texts))
    token = preprocessor.image_token
    raw = f"w1 {token} w2 {token} w3"
    assert [len(text) for text in preprocessor.prompt(raw, num_images=2, raw=True).texts] == [1, 1, 1]
    for wrong, is_raw, message in (
        (raw, True, r"a raw prompt holds it once per image \(3\)"),
        (raw, False, "leave it out, it is put in for you|the row's images are 3: give a mark for each image"),
    ):
        with pytest.raises(PromptInvalid, match=message):
            preprocessor.prompt(wrong, num_images=3, raw=is_raw)


def test_a_template_with_room_for_one_image_refuses_two(saved: Callable[[str], str], tmp_path: Path) -> None:
    shutil.copytree(saved("llava"), tmp_path / "one")
    (tmp_path / "one" / "chat_template.jinja").write_text("USER: <image> {{ messages[0]['content'][-1]['text'] }}")
    preprocessor = Preprocessor.from_checkpoint(Checkpoint(name=str(tmp_path / "one")))
    assert preprocessor.prompt("w1").num_images == 1
    with pytest.raises(PromptInvalid, match="the checkpoint's chat template has no place for 2 images"):
        preprocessor.prompt("w1", num_images=2)


def test_without_a_template_every_image_gets_a_line(tmp_path: Path) -> None:
    preprocessor = Preprocessor.from_checkpoint(Checkpoint(name=save_tiny(tmp_path, template=False)))
    assert [len(text) for text in preprocessor.prompt("w1 w2", num_images=2).texts] == [1, 0, 3]


@pytest.mark.parametrize("name", ["chat_template.json", "chat_template.jinja"])
def test_the_processors_own_template_goes_before_the_tokenizers(
    saved: Callable[[str], str], tmp_path: Path, name: str
) -> None:
    """Older checkpoints of Qwen have it in a file of its own."""
    folder = tmp_path / "qwen"
    shutil.copytree(saved("qwen2_5_vl"), folder)
    template = "w7 " + QWEN_TEMPLATE
    (folder / name).write_text(json.dumps({"chat_template": template}) if name.endswith("json") else template)
    plain, own = (Preprocessor.from_checkpoint(Checkpoint(name=str(f))) for f in (saved("qwen2_5_vl"), folder))
    [first, *_], [longer, *_] = plain.prompt("w1").texts, own.prompt("w1").texts
    assert longer == (*own.answer_ids("w7"), *first)


def test_the_resolution_stays_within_the_processors_bounds(saved: Callable[[str], str], tmp_path: Path) -> None:
    """`min_pixels` and `max_pixels`, as checkpoints of Qwen spell them."""
    folder = tmp_path / "qwen"
    shutil.copytree(saved("qwen2_5_vl"), folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    del settings["size"]
    bounds = {"min_pixels": 14 * 14 * 6, "max_pixels": 14 * 14 * 12}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | bounds))
    preprocessor = Preprocessor.from_checkpoint(Checkpoint(name=str(folder)))
    for size in [(10, 10), (40, 30), (500, 400), (300, 200)]:
        _, height, width, _ = preprocessor.picture(random_image(0, size)).views.shape
        assert bounds["min_pixels"] <= height * width <= bounds["max_pixels"]
