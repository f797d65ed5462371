"""The model that `lmms_eval --model star_batch` runs. Only lmms-eval imports this module."""

import os
from collections.abc import Sequence
from typing import Any, NoReturn

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from loguru import logger
from tqdm import tqdm

from star_batch.errors import ConfigError
from star_batch.evaluation.answering import answer_all, failures, ignored
from star_batch.evaluation.requests import Request
from star_batch.evaluation.settings import Settings


class StarBatch(lmms):  # type: ignore[misc]  # lmms-eval is not typed
    """An engine with its pruning. It makes batches itself, so `--batch_size` changes nothing; `max_rows` bounds them.

    Raises:
        ConfigError: an argument is wrong, or there are several processes.
        ModelError: the checkpoint cannot be loaded.
    """

    is_simple = False

    def __init__(self, *, batch_size: Any = None, max_batch_size: Any = None, **arguments: Any) -> None:
        super().__init__()
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise ConfigError("several processes are not supported: start lmms_eval without accelerate and torchrun")
        self._settings = Settings.of_arguments(arguments)
        self._engine = self._settings.load()

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Texts in the order of the requests; "" for a row that failed, which is logged by its id and counted."""
        asked = [Request.of_arguments(request.args) for request in requests]
        for remark in ignored(asked):
            logger.warning(remark)
        with tqdm(total=len(asked), desc="star_batch") as bar:
            answers = answer_all(
                self._engine,
                asked,
                self.task_dict,
                max_new_tokens=self._settings.max_new_tokens,
                on_row=bar.update,
            )
        for failure in failures(answers):
            logger.error(failure)
        return [GenerationResult(answer.text or "", TokenCounts(output_tokens=answer.num_output)) for answer in answers]

    def clean(self) -> None:
        """Called by lmms-eval when all requests are answered."""
        self._engine.close()
        super().clean()

    def loglikelihood(self, requests: object) -> NoReturn:
        raise NotImplementedError(
            "star_batch writes answers and does not compute the likelihood of given ones: choose tasks whose"
            " output_type is generate_until"
        )

    def generate_until_multi_round(self, requests: object) -> NoReturn:
        raise NotImplementedError(
            "star_batch answers one question at a time and holds no conversation: choose tasks whose output_type is"
            " generate_until"
        )
