"""Checkpoints: what is read, what is refused, and with which words."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoProcessor, LlavaForConditionalGeneration

from star_batch import Engine
from star_batch.errors import ModelError
from star_batch.models import Checkpoint, choose_device, choose_dtype, family_of, load_preprocessor
from star_batch.models.adapter import context_length
from tests.models.loading import loaded
from tests.tiny import random_image, random_records, save_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny(folder)
    return folder


def edited(tiny: Path, tmp_path: Path, **changes: object) -> Checkpoint:
    """The tiny checkpoint's configuration with other values, dotted names reaching inside."""
    config = json.loads((tiny / "config.json").read_text())
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (config[section] if section else config)[name] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    return Checkpoint(name=str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_feature_layer": [-2, -3]}, "one of the tower's 3 layers"),
        ({"vision_feature_select_strategy": "full"}, "does not fit a tower"),
        (
            {"text_config__rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "depend on its batch",
        ),
    ],
)
def test_what_would_be_computed_wrongly_is_refused(
    tiny: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    checkpoint = edited(tiny, tmp_path, **changes)
    with pytest.raises(ModelError, match=message):
        family_of(checkpoint, checkpoint.config())


@pytest.mark.parametrize("model_type", ["bert", "qwen3_vl", "llava_onevision", "idefics3"])
def test_an_unknown_family_is_refused_with_the_list_of_known_ones(tmp_path: Path, model_type: str) -> None:
    """Before a processor or a weight is looked for."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    known = "llava, llava_next, qwen2_vl, qwen2_5_vl"
    with pytest.raises(ModelError, match=f"'{model_type}' is not supported; supported: {known}$"):
        Engine.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("name", ["/no/such/dir", "./nowhere"])
def test_a_missing_directory_is_named(name: str) -> None:
    with pytest.raises(ModelError, match=f"{name}: no such directory"):
        Checkpoint(name=name).config()


def test_a_sliding_window_bounds_the_context() -> None:
    class Text:
        max_position_embeddings = 32768
        sliding_window = 4096

    assert context_length(Text()) == 4096


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match="is not known"):
        choose_device("tpu9")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="sees 0 CUDA devices"):
            choose_device("cuda")


def test_float16_becomes_float32_on_cpu(tiny: Path, tmp_path: Path) -> None:
    config = edited(tiny, tmp_path, dtype="float16").config()
    assert choose_dtype("auto", config, torch.device("cpu")) == torch.float32
    assert choose_dtype("bfloat16", config, torch.device("cpu")) == torch.bfloat16


def test_prompts_are_tokenized_as_the_librarys_processor_does(tiny: Path) -> None:
    processor = AutoProcessor.from_pretrained(tiny)
    ours = load_preprocessor(str(tiny))
    for record in random_records(5):
        content = [{"type": "image"}, {"type": "text", "text": record.prompt}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(images=record.image, text=text, return_tensors="np")
        ids = inputs["input_ids"][0].tolist()
        prompt = ours.prompt(record.prompt)
        places = [i for i, token in enumerate(ids) if token == 4]
        assert (tuple(ids[: places[0]]), tuple(ids[places[-1] + 1 :])) == prompt.texts


@pytest.mark.parametrize("size", [(80, 64), (20, 200), (56, 56)])
def test_normalised_pixels_equal_the_librarys(tiny: Path, size: tuple[int, int]) -> None:
    image = random_image(3, size)
    expected = AutoProcessor.from_pretrained(tiny).image_processor(image, return_tensors="np")
    ours = load_preprocessor(str(tiny))
    [pixels] = ours.picture(image).views
    assert pixels.dtype == np.uint8
    scheme = ours.normalisation
    normalised = (pixels * scheme.scale - np.array(scheme.mean)) / np.array(scheme.std)
    assert np.allclose(np.moveaxis(normalised, -1, 0), expected["pixel_values"][0], atol=1e-5)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    def load(tower: str):  # type: ignore[no-untyped-def]
        folder = tmp_path_factory.mktemp(tower)
        save_tiny(folder, tower=tower)
        checkpoint = Checkpoint(name=str(folder))
        family = family_of(checkpoint, checkpoint.config())
        normalisation = load_preprocessor(str(folder)).normalisation
        model = family.load(
            checkpoint,
            dtype=torch.float32,
            device=torch.device("cpu"),
            normalisation=normalisation,
            attention="sdpa",
        )
        return folder, model

    return {tower: load(tower) for tower in ("clip", "siglip")}


@pytest.mark.parametrize("tower", ["clip", "siglip"])
def test_features_and_attention_equal_the_librarys(encoders, tower: str) -> None:  # type: ignore[no-untyped-def]
    """Against `output_hidden_states` and `output_attentions` of the whole tower, run eagerly."""
    folder, ours = encoders[tower]
    library = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    images = [random_image(seed) for seed in range(3)]
    inputs = AutoProcessor.from_pretrained(folder).image_processor(images, return_tensors="pt")
    with torch.inference_mode():
        out = library.model.vision_tower(**inputs, output_hidden_states=True, output_attentions=True)
        preprocessor = load_preprocessor(str(folder))
        views = [preprocessor.picture(image).views for image in images]
        features, attention, _ = ours.encode(torch.from_numpy(np.stack(views)), [image.size for image in images])
    leading = int(tower == "clip")
    assert torch.allclose(features, out.hidden_states[-2][:, leading:], atol=1e-5)
    received = out.attentions[-2]
    expected = received[:, :, :1, 1:] if leading else received.mean(dim=2, keepdim=True)
    assert torch.allclose(attention, expected, atol=1e-6)


@pytest.mark.parametrize("tower", ["clip", "siglip"])
@torch.inference_mode()
def test_an_image_is_encoded_alike_in_any_company(encoders, tower: str) -> None:  # type: ignore[no-untyped-def]
    """In a batch of one fixed shape, bit for bit: VisPruner would amplify any difference."""
    _, model = encoders[tower]
    generator = np.random.RandomState(0)
    batch = torch.from_numpy(generator.randint(0, 255, (4, 1, 56, 56, 3), dtype=np.uint8))
    features, attention, _ = model.encode(batch, [(56, 56)])
    for place in range(4):
        other = torch.zeros_like(batch)
        other[place] = batch[0]
        again, seen, _ = model.encode(other, [(56, 56)])
        assert again[place].equal(features[0])
        assert seen[place].equal(attention[0])


def test_sharded_weights_are_read(tiny: Path, tmp_path: Path) -> None:
    model = LlavaForConditionalGeneration.from_pretrained(tiny)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    checkpoint = Checkpoint(name=str(tmp_path))
    ours = family_of(checkpoint, checkpoint.config()).load(
        checkpoint,
        dtype=torch.float32,
        device=torch.device("cpu"),
        normalisation=load_preprocessor(str(tiny)).normalisation,
        attention="sdpa",
    )
    assert ours.num_layers == 6


def test_pickled_weights_are_refused(tiny: Path, tmp_path: Path) -> None:
    """A .bin file runs code when it is read."""
    (tmp_path / "config.json").write_text((tiny / "config.json").read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")
    checkpoint = Checkpoint(name=str(tmp_path))
    with pytest.raises(ModelError, match="its weights cannot be read"):
        family_of(checkpoint, checkpoint.config()).load(
            checkpoint,
            dtype=torch.float32,
            device=torch.device("cpu"),
            normalisation=load_preprocessor(str(tiny)).normalisation,
            attention="sdpa",
        )


def test_missing_weights_are_not_made_up(tiny: Path, tmp_path: Path) -> None:
    """The library fills them with random numbers and goes on."""
    weights = load_file(tiny / "model.safetensors")
    del weights[next(name for name in weights if "layers.3.mlp.up_proj" in name)]
    copy_checkpoint(tiny, tmp_path)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing, such as .*layers\.3\.mlp"):
        loaded(tmp_path)


def test_truncated_weights_are_a_model_error(tiny: Path, tmp_path: Path) -> None:
    copy_checkpoint(tiny, tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="its weights cannot be read"):
        loaded(tmp_path)


def copy_checkpoint(source: Path, target: Path) -> None:
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())


def test_what_every_part_of_a_checkpoint_is_read_with(tiny: Path) -> None:
    """Remote code only if asked for, the revision that was asked for, and no network for local files."""
    assert Checkpoint(name="someone/model", revision="abc").arguments == {
        "trust_remote_code": False,
        "local_files_only": False,
        "revision": "abc",
    }
    assert Checkpoint(name=str(tiny), trust_remote_code=True).arguments == {
        "trust_remote_code": True,
        "local_files_only": True,
    }


def test_a_revision_of_a_directory_is_refused(tiny: Path) -> None:
    with pytest.raises(ModelError, match="revision='abc' belongs to a hub id"):
        Checkpoint(name=str(tiny), revision="abc").config()


@pytest.mark.parametrize("layer", [0, 4, -4, -9])
def test_a_feature_layer_outside_the_tower_is_refused(tiny: Path, tmp_path: Path, layer: int) -> None:
    checkpoint = edited(tiny, tmp_path, vision_feature_layer=layer)
    with pytest.raises(ModelError, match=f"vision_feature_layer={layer}: one of the tower's 3 layers"):
        family_of(checkpoint, checkpoint.config())


@pytest.mark.parametrize("template_starts_with_bos", [True, False])
def test_one_beginning_of_sequence_whoever_puts_it_there(
    tiny: Path, tmp_path: Path, template_starts_with_bos: bool
) -> None:
    """A tokenizer that adds it and a template that writes it must not make two."""
    copy_checkpoint(tiny, tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    if template_starts_with_bos:
        template = tmp_path / "chat_template.jinja"
        template.write_text("<s> " + template.read_text())
    before = load_preprocessor(str(tmp_path)).prompt("w1").texts[0]
    assert before.count(1) == 1
    assert before[0] == 1
