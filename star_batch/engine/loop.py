"""The engine's thread: take what was submitted, step until all is done, wait for more.

It holds the core and the request queue, and not the engine that callers hold: an engine that nobody holds any more
can be collected, which closes the request queue. Knows no record and no model.
"""

import threading
import time

import torch

from star_batch.engine.core import Core
from star_batch.engine.finish import answer_of
from star_batch.engine.request_queue import Arrival, RequestQueue, Ticket, fail_all
from star_batch.engine.sequence import Sequence
from star_batch.models.attention import lasting_kernels

_LONGEST_WAIT = 1.0  # then the wait is counted, so that whoever reads sees an engine that has nothing to do


class Loop:
    """Steps `core` with what comes into `request_queue`, until that is closed and all is answered."""

    def __init__(self, core: Core, request_queue: RequestQueue, device: torch.device) -> None:
        self.idle_seconds = 0.0
        self._core = core
        self._request_queue = request_queue
        self._device = device
        self._tickets: dict[Sequence, Ticket] = {}
        self._is_closing = False

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name="star-batch-engine", daemon=True)
        thread.start()
        return thread

    @torch.inference_mode()
    def _run(self) -> None:
        try:
            if self._device.type == "cuda":  # a thread begins on the first one, and graphs and kernels stay on it
                torch.cuda.set_device(self._device)
            with lasting_kernels(self._device):
                self._work()
        except BaseException as error:  # whatever it is, no caller may wait for ever
            self._request_queue.close(error)
            fail_all(self._tickets.values(), error)
            fail_all((ticket for _, ticket in self._request_queue.drain()), error)

    def _work(self) -> None:
        while self._receive():
            for sequence in self._core.step():
                ticket = self._tickets.pop(sequence)
                ticket.window.put(ticket.index, answer_of(sequence))

    def _receive(self) -> bool:
        """Take in all that has arrived; waits a moment, but only when idle. False once closed and idle."""
        while not self._is_closing:
            arrivals = self._wait() if self._core.is_idle else self._request_queue.take()
            if arrivals is None:
                self._is_closing = True
                break
            if not arrivals:
                break
            for sequence, ticket in arrivals:
                self._tickets[sequence] = ticket
                self._core.add(sequence)
        return not (self._is_closing and self._core.is_idle)

    def _wait(self) -> list[Arrival] | None:
        start = time.perf_counter()
        arrivals = self._request_queue.take(seconds=_LONGEST_WAIT)
        self.idle_seconds += time.perf_counter() - start
        return arrivals
