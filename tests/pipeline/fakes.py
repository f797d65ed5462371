"""An engine and a preprocessor of plain numpy, so that the pipeline is tested without a model."""

import ctypes
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

import numpy as np
from PIL import Image

from star_batch.commit.fingerprint import Generation
from star_batch.config import JobConfig, Model
from star_batch.errors import ModelError, PromptTooLong
from star_batch.inputs.planned_row import PictureMaker
from star_batch.metrics import EngineStats, Readings
from star_batch.options import Decoding
from star_batch.pipeline.backend import Backend, RecordEngine
from star_batch.records import Answer, Picture, Record

SIDE = 8
DEADLY_SIZE = (13, 13)
"""An image of this size kills the process that prepares it."""
EXPLODE = "explode while there is "
"""A prompt that begins with this and ends with a path makes the engine fail as long as there is a file."""
DIE = "die unless there is "
"""A prompt that begins with this and ends with a path kills the engine's process once, and leaves a file there."""
POISON = "poison: "
"""A prompt that begins with this, then names one of `DEATHS` and a path, always kills; the path counts the deaths."""


def _hang() -> None:
    time.sleep(3600.0)


def _read_nothing() -> None:
    ctypes.string_at(0)


def _lose_the_device() -> None:
    raise RuntimeError("CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA")


DEATHS: Mapping[str, Callable[[], None]] = {
    "exit": lambda: os._exit(1),
    "segfault": _read_nothing,
    "out-of-memory": lambda: os.kill(os.getpid(), signal.SIGKILL),  # as the kernel does it
    "hang": _hang,
    "device": _lose_the_device,
}


def die(order: str) -> None:
    kind, path = order.split(" ", 1)
    with open(path, "ab", buffering=0) as log:
        log.write(b".")
    DEATHS[kind]()


class FakePreprocessor:
    """Every image becomes `SIDE` x `SIDE` pixels."""

    def shrink(self, size: tuple[int, int]) -> int:
        return 1

    def picture(self, image: Image.Image, size: tuple[int, int] | None = None) -> Picture:
        if image.size == DEADLY_SIZE:
            _read_nothing()
        return Picture(np.asarray(image.resize((SIDE, SIDE)), dtype=np.uint8)[None], (image.height, image.width))


class FakeEngine:
    """Answers all rows that came in during a tick together, with the prompt and the image's mean colour."""

    def __init__(self, tick_seconds: float = 0.02) -> None:
        self._tick_seconds = tick_seconds
        self._requests: queue.SimpleQueue[tuple[Sequence[Record], Future[list[Answer]]]] = queue.SimpleQueue()
        self._stats = EngineStats()
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, records: Sequence[Record], *, decoding: Decoding | None = None) -> Future[list[Answer]]:
        future: Future[list[Answer]] = Future()
        self._requests.put((records, future))
        return future

    def stats(self) -> EngineStats:
        return self._stats + EngineStats()

    def readings(self) -> Readings:
        return Readings()

    def _run(self) -> None:
        while True:
            windows = [self._requests.get()]
            time.sleep(self._tick_seconds)
            while not self._requests.empty():
                windows.append(self._requests.get())
            self._answer(windows)

    def _answer(self, windows: Sequence[tuple[Sequence[Record], Future[list[Answer]]]]) -> None:
        rows = sum(len(records) for records, _ in windows)
        self._stats += EngineStats(prefill_batches=1, prefill_rows=rows)
        for records, future in windows:
            try:
                answers = [answer(record) for record in records]
            except RuntimeError as error:
                future.set_exception(error)
                continue
            failed = sum(answer.error is not None for answer in answers)
            self._stats += EngineStats(rows_answered=len(answers) - failed, rows_failed=failed)
            future.set_result(answers)


def answer(record: Record) -> Answer:
    """What the fake model says about one record."""
    pictures = [image for image in record.images if isinstance(image, Picture)]
    assert record.prompt is not None
    if len(record.prompt) > 1000:
        return Answer.failed(record.id, PromptTooLong(f"{len(record.prompt)} characters"))
    if record.prompt.startswith(EXPLODE) and os.path.exists(record.prompt.removeprefix(EXPLODE)):
        raise RuntimeError("device-side assert triggered")
    if record.prompt.startswith(DIE) and not os.path.exists(tombstone := record.prompt.removeprefix(DIE)):
        open(tombstone, "x").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if record.prompt.startswith(POISON):
        die(record.prompt.removeprefix(POISON))
    text = (
        record.choices[0]
        if record.choices
        else f"{record.prompt} {' '.join(str(int(picture.views.mean())) for picture in pictures)}"
    )
    return Answer(
        id=record.id,
        text=text,
        token_ids=(1, 2, 3),
        finish_reason="stop",
        label=text if record.choices else None,
        num_visual=64,
        num_kept=(16, 8),
        kept=(tuple(range(16)), tuple(range(8))) if record.with_kept else None,
        num_prompt=len(record.prompt),
        num_output=3,
    )


def load_engine(config: JobConfig) -> RecordEngine:
    if config.model.name == "broken":
        raise ModelError("broken: no weights in it")
    return FakeEngine()


def load_slow_engine(config: JobConfig) -> RecordEngine:
    return FakeEngine(tick_seconds=0.3)


def load_preprocessor(model: Model) -> PictureMaker:
    return FakePreprocessor()


def identify(config: JobConfig) -> Mapping[str, str]:
    return {"name": config.model.name}


def generation(config: JobConfig) -> Generation:
    return Generation()


FAKE = Backend(engine=load_engine, preprocessor=load_preprocessor, identify=identify, generation=generation)
