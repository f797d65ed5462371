"""What a checkpoint says about how it generates: where it stops, and what bends its greedy answers.

Stop tokens come from the first that names some: `generation_config.json`, the configuration of the text decoder, the
configuration itself. Knows no weights and no tokenizer.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub.errors import EntryNotFoundError
from transformers import GenerationConfig, PreTrainedConfig

from star_batch.errors import ModelError
from star_batch.models.checkpoint import Checkpoint, opening
from star_batch.wording import printable

# What greedy answers of a given length do not depend on: sampling, beams' details, caches, speed, what is returned.
_WITHOUT_EFFECT = """
    bos_token_id eos_token_id pad_token_id decoder_start_token_id transformers_version repetition_penalty
    max_length max_new_tokens do_sample temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff
    early_stopping length_penalty num_return_sequences renormalize_logits remove_invalid_values
    use_cache cache_implementation cache_config max_cache_len use_mtp prefill_chunk_size low_memory
    output_attentions output_hidden_states output_scores output_logits return_dict_in_generate
    is_assistant num_assistant_tokens num_assistant_tokens_schedule assistant_confidence_threshold
    assistant_early_exit assistant_lookbehind target_lookbehind prompt_lookup_num_tokens max_matching_ngram_size
    speculation_type compile_config disable_compile continuous_batching_config
    """
_NEUTRAL = {"num_beams": 1, "num_beam_groups": 1, "encoder_repetition_penalty": 1.0, "guidance_scale": 1.0}
_LONGEST_VALUE = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSettings:
    """`stop_ids` may be empty; `repetition_penalty` is 1.0 where there is none.

    `not_applied`: settings that change the library's greedy answers and not the engine's, as they may be shown.
    """

    stop_ids: frozenset[int] = frozenset()
    repetition_penalty: float = 1.0
    not_applied: Mapping[str, str] = field(default_factory=dict)


def generation_of(checkpoint: Checkpoint, config: PreTrainedConfig) -> GenerationSettings:
    """What `generate` of the library would go by.

    Raises:
        ModelError: the settings cannot be read, or a value in them makes no sense.
    """
    with opening(checkpoint, "its generation settings cannot be read"):
        settings = _settings(checkpoint)
        penalty = settings.repetition_penalty
        return GenerationSettings(
            stop_ids=_stop_ids(settings, config),
            repetition_penalty=1.0 if penalty is None else _checked(checkpoint, penalty),
            not_applied=dict(_not_applied(settings)),
        )


def _settings(checkpoint: Checkpoint) -> GenerationConfig:
    """The checkpoint's own, or none at all: an older checkpoint has no such file."""
    try:
        if checkpoint.is_local and not Path(checkpoint.source, "generation_config.json").exists():
            return GenerationConfig()
        return GenerationConfig.from_pretrained(checkpoint.source, **checkpoint.arguments)
    except OSError as error:
        if not isinstance(error.__cause__, EntryNotFoundError):
            raise  # it is there and broken, or cannot be reached
        return GenerationConfig()


def _checked(checkpoint: Checkpoint, penalty: object) -> float:
    is_number = isinstance(penalty, int | float) and not isinstance(penalty, bool)
    if not is_number or not math.isfinite(penalty) or penalty <= 0.0:  # type: ignore[arg-type, operator]
        shown = printable(repr(penalty), _LONGEST_VALUE)
        raise ModelError(f"{checkpoint.shown}: its generation settings say repetition_penalty={shown}")
    return float(penalty)  # type: ignore[arg-type]


def _stop_ids(settings: GenerationConfig, config: PreTrainedConfig) -> frozenset[int]:
    text = config.text_config
    named = (getattr(source, "eos_token_id", None) for source in (settings, text, config))
    found = next((eos for eos in named if eos is not None), ())
    ids = found if isinstance(found, list | tuple) else [found] if found != () else []
    # No logit belongs to an id outside of the vocabulary.
    return frozenset(id for id in ids if type(id) is int and 0 <= id < text.vocab_size)


def _not_applied(settings: GenerationConfig) -> Iterator[tuple[str, str]]:
    # Whatever the library knows counts, but for what is known to do nothing here: it learns new ones.
    without_effect = _WITHOUT_EFFECT.split()
    for name in sorted(vars(GenerationConfig())):
        value = getattr(settings, name, None)
        if name.startswith("_") or name in without_effect or _is_neutral(name, value):
            continue
        yield name, printable(json.dumps(value, default=str), _LONGEST_VALUE)


def _is_neutral(name: str, value: object) -> bool:
    if name.endswith("_id"):
        return value is None
    return not value or value == _NEUTRAL.get(name)
