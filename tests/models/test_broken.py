"""Broken and hostile checkpoints: whatever is wrong with one is a ModelError in one line, before weights are read."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from star_batch.errors import ModelError, PromptInvalid
from star_batch.models import Checkpoint, Preprocessor, check, generation_of, load_preprocessor
from tests.families import QWEN_TEMPLATE, save_llava_next, save_qwen2_5_vl
from tests.models.loading import loaded
from tests.tiny import TEMPLATE, save_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny(folder)
    return folder


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def edit(file: Path, **changes: Any) -> None:
    values = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(values | changes))


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "config.json", **changes)


def text(name: str, content: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_text(content)

    return write


def without(*names: str) -> Callable[[Path], None]:
    def delete(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return delete


def weights(content: bytes | Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def broken(folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(content(file.read_bytes()) if callable(content) else content)

    return broken


def only_an_adapter(folder: Path) -> None:
    without(*(path.name for path in folder.iterdir()))(folder)
    (folder / "adapter_config.json").write_text("{}")


def only_pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def index_of_absent_files(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    edit(folder / "model.safetensors.index.json", weight_map={"x": "a.safetensors", "y": "b.safetensors"})


def odd_index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.safetensors.index.json")
    (folder / "model.safetensors.index.json").write_text("[]")


def without_image_token(folder: Path) -> None:
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace("<image>", "<picture>"))
    edit(folder / "tokenizer_config.json", image_token="<image>", extra_special_tokens={})


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128}
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "config is cut": (text("config.json", '{"model_type": '), "its configuration cannot be read"),
    "config is a list": (text("config.json", "[1]"), "its configuration cannot be read"),
    "config is deep": (text("config.json", '{"a":' * 100_000), "its configuration cannot be read"),
    "config is gone": (without("config.json"), "is no checkpoint: there is no config.json"),
    "model_type is no text": (config(model_type=["llava"]), "is not supported"),
    "code of its own": (config(model_type="internvl_chat", auto_map={"AutoConfig": "c.C"}), r"\(auto_map\) is not run"),
    "no text_config": (config(text_config={"model_type": "llama"}), "describes 6,.* weights, and its files hold"),
    "odd vision tower": (config(vision_config={"model_type": "nope"}), "its configuration cannot be read"),
    "a tower without size": (
        config(vision_config={"model_type": "clip_vision_model", "image_size": 4, "patch_size": 7}),
        "its configuration is not complete",
    ),
    "quantised, no package": (config(quantization_config=AWQ), "quantised in a way .*pip install gptqmodel"),
    "quantised somehow": (config(quantization_config={"quant_method": "magic"}), "quantised in a way"),
    "original LLaVA": (config(architectures=["LlavaLlamaForCausalLM"]), "llava-hf/llava-1.5-7b-hf for liuhaotian"),
    "only an adapter": (only_an_adapter, r"merge_and_unload\(\)"),
    "pickled": (only_pickled, "its weights cannot be read: they are pickled"),
    "no weights": (without("model.safetensors"), "there is no model.safetensors"),
    "weights are cut": (weights(lambda data: data[:2000]), "its weights cannot be read: model.safetensors"),
    "a header of exabytes": (weights((2**60).to_bytes(8, "little") + b"{}"), "its weights cannot be read"),
    "a shard is missing": (index_of_absent_files, "1 of 2 files of weights are missing: b.safetensors"),
    "index is odd": (odd_index, "its weights cannot be read"),
    "settings are cut": (text("generation_config.json", "{"), "its generation settings cannot be read"),
    "penalty is text": (text("generation_config.json", '{"repetition_penalty": "much"}'), "repetition_penalty='much'"),
    "penalty is nothing": (text("generation_config.json", '{"repetition_penalty": 0}'), "repetition_penalty=0"),
    "tokenizer is odd": (text("tokenizer.json", "{}"), "its processor cannot be read"),
    "no processor": (without("processor_config.json"), "its processor cannot be read"),
    "no image token": (without_image_token, "the image token is 4 to the model"),
    "another image token": (config(image_token_index=9), r"the image token is 9 to the model.* makes \[4\]"),
    "template makes gigabytes": (text("chat_template.jinja", "{{ 'x' * 10**10 }}"), "needs more than 1,024 MiB"),
    "template makes megabytes": (
        text("chat_template.jinja", "{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}"),
        "makes more than 1,000,000 characters",
    ),
    "template is none": (text("chat_template.jinja", "{% if %}"), "is no Jinja template"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_is_said_in_one_line_before_weights_are_read(folder: Path, case: str) -> None:
    breaks, message = BROKEN[case]
    breaks(folder)
    with pytest.raises(ModelError, match=message) as raised:
        check(Checkpoint(name=str(folder)))
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 300 + len(str(folder)) + 200
    assert str(folder) in str(raised.value)


def test_a_whole_checkpoint_passes(folder: Path) -> None:
    """And one whose configuration names attention that is not installed, which nothing here would use."""
    config(_attn_implementation="flash_attention_2", attn_implementation="flash_attention_3")(folder)
    assert check(Checkpoint(name=str(folder))).stop_ids == {2}
    assert loaded(folder)


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor], str], Any]) -> None:
    file = folder / "model.safetensors"
    held = load_file(file)
    edit(held, next(name for name in held if "layers.3.mlp.up_proj" in name))
    save_file(held, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda held, name: held.update({name: held[name][:4].clone()}),
            "1 weights have another shape, such as .*up_p",
        ),
        (
            lambda held, name: held[name].view(-1)[7:8].fill_(torch.nan),
            "1 weights hold NaN or infinity, such as .*up_p",
        ),
        (lambda held, name: held[name].view(-1)[7:8].fill_(-torch.inf), "1 weights hold NaN or infinity"),
        (
            lambda held, name: held.update({name.replace("layers.3", "layers.6"): held[name].clone()}),
            "1 weights belong to layers that its configuration does not have",
        ),
    ],
)
def test_weights_that_do_not_fit_never_answer(folder: Path, edit: Any, message: str) -> None:
    change(folder, edit)
    with pytest.raises(ModelError, match=message):
        loaded(folder)


def test_weights_that_nothing_uses_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    change(folder, lambda held, name: held.update({"vision_tower.head.probe": torch.zeros(3)}))
    assert loaded(folder)
    assert "1 weights are not used, such as" in caplog.text


def generation(folder: Path) -> Any:
    checkpoint = Checkpoint(name=str(folder))
    return generation_of(checkpoint, checkpoint.config())


def test_without_generation_settings_the_configuration_says_where_to_stop(folder: Path) -> None:
    """The text decoder's own before the whole's, a list as well as a number; ids that no logit has do not count."""
    without("generation_config.json")(folder)
    values = json.loads((folder / "config.json").read_text())
    for own, whole, expected in ((2, 7, {2}), ([2, 3, 10**6], 7, {2, 3}), (None, 7, {7}), (None, None, set())):
        values["text_config"]["eos_token_id"], values["eos_token_id"] = own, whole
        (folder / "config.json").write_text(json.dumps(values))
        assert generation(folder).stop_ids == expected
    assert load_preprocessor(str(folder)).stop_ids == {2}, "the tokenizer's is the last resort"


def test_qwen_without_generation_settings(tmp_path: Path) -> None:
    """Its configuration has no `eos_token_id` at the top at all."""
    save_qwen2_5_vl(tmp_path)
    without("generation_config.json")(tmp_path)
    assert check(Checkpoint(name=str(tmp_path))).stop_ids == {2}


def test_settings_that_are_applied_and_those_that_are_not(folder: Path) -> None:
    """What changes no greedy answer is not worth a word: sampling, caches, what beams alone look at."""
    settings = {"eos_token_id": 2, "repetition_penalty": 1.05, "do_sample": True, "temperature": 0.1, "top_k": 1}
    left_out = {"min_new_tokens": 3, "num_beams": 4, "begin_suppress_tokens": [5], "forced_eos_token_id": 0}
    long = {"exponential_decay_length_penalty": [3, 1.2], "bad_words_ids": [[i] for i in range(1000)]}
    (folder / "generation_config.json").write_text(json.dumps(settings | left_out | long | {"num_beam_groups": 1}))
    found = generation(folder)
    assert found.repetition_penalty == 1.05
    assert set(found.not_applied) == {*left_out, *long}
    assert found.not_applied["min_new_tokens"] == "3"
    assert all(len(value) < 120 for value in found.not_applied.values())


def prompt(folder: Path) -> tuple[tuple[int, ...], ...]:
    return Preprocessor.from_checkpoint(Checkpoint(name=str(folder))).prompt("w1").texts


NAMED = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "w7 " + TEMPLATE}]


@pytest.mark.parametrize("brought", ["w7 " + TEMPLATE, NAMED])
def test_the_tokenizers_template_is_used(folder: Path, brought: Any) -> None:
    """A text or a list of named ones, as older checkpoints have it."""
    usual = prompt(folder)
    without("chat_template.jinja")(folder)
    edit(folder / "tokenizer_config.json", chat_template=brought)
    (first, rest), (usual_first, usual_rest) = prompt(folder), usual
    assert (first[1:], rest) == (usual_first, usual_rest)


@pytest.mark.parametrize(
    ("brought", "reason"),
    [
        ("USER: {{ messages[0]['content'][1]['text'] }} ASSISTANT:", "has no place for one image"),
        ("USER: {{ messages[0]['content'] + 'x' }}", "does not take an image"),
        ("USER: <image> ASSISTANT:", "leaves out the prompt"),
        ({"rag": "x"}, "none of its chat templates is called default"),
        (None, "it brings no chat template"),
    ],
)
def test_a_template_that_cannot_be_used_is_said_aloud_or_refused(
    folder: Path, tmp_path: Path, brought: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The words of LLaVA-1.5 go without saying; no other family's do."""
    named = [{"name": name, "template": one} for name, one in brought.items()] if isinstance(brought, dict) else brought
    without("chat_template.jinja")(folder)
    edit(folder / "tokenizer_config.json", chat_template=named)
    assert [len(part) for part in prompt(folder)] == [1, 2]
    prompt(folder)
    assert caplog.text.count(reason) == 1
    assert "LLaVA-1.5's own words are used" in caplog.text
    save_llava_next(tmp_path / "next")
    without("chat_template.jinja")(tmp_path / "next")
    edit(tmp_path / "next" / "tokenizer_config.json", chat_template=named)
    with pytest.raises(ModelError, match=reason):
        prompt(tmp_path / "next")


def test_qwen_without_a_template_is_refused(tmp_path: Path) -> None:
    save_qwen2_5_vl(tmp_path)
    for file in ("chat_template.jinja", "chat_template.json"):
        (tmp_path / file).unlink(missing_ok=True)
    with pytest.raises(ModelError, match="it brings no chat template; put one"):
        prompt(tmp_path)
    edit(tmp_path / "tokenizer_config.json", chat_template=QWEN_TEMPLATE)
    assert len(prompt(tmp_path)) == 2


@pytest.mark.faults
def test_a_template_that_never_ends_does_not_hang(folder: Path) -> None:
    endless = "{% for i in range(10**5) %}{% for j in range(10**5) %}{% endfor %}{% endfor %}"
    text("chat_template.jinja", endless)(folder)
    start = time.monotonic()
    with pytest.raises(ModelError, match="its chat template cannot be used: it takes over 5 s"):
        prompt(folder)
    assert time.monotonic() - start < 100


def test_what_a_template_or_tokenizer_raises_is_the_rows_error(folder: Path) -> None:
    """On words that were not tried when it was loaded."""
    odd = "{% if 'w3' in messages[0]['content'][1]['text'] %}{{ 1 // 0 }}{% endif %}"
    long = "{% if 'w4' in messages[0]['content'][1]['text'] %}{{ 'x' * 10**7 }}{% endif %}"
    text("chat_template.jinja", odd + long + TEMPLATE)(folder)
    preprocessor = Preprocessor.from_checkpoint(Checkpoint(name=str(folder)))
    with pytest.raises(PromptInvalid, match="template or tokenizer cannot take it: ZeroDivisionError"):
        preprocessor.prompt("w1 w3")
    with pytest.raises(PromptInvalid, match=r"makes 10,000,.* characters"):
        preprocessor.prompt("w1 w4")
    assert preprocessor.prompt("w1 w2").num_images == 1
