"""When training has gone wrong: a loss or a gradient that is no number, or a loss that has run away from its best."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WINDOW_UPDATES = 20
"""Losses are averaged over so many updates, so that one hard batch is no divergence."""

RISE_NATS = 3.0
"""How far the averaged loss may rise above its lowest in the same phase. Warming the rate up again costs tenths of a nat; a
model that has forgotten everything loses about this much."""

ABOVE_UNIFORM_NATS = 1.0
"""How far the averaged loss may lie above that of guessing, ln(vocabulary), which an untrained model has."""


class DivergedError(RuntimeError):
    """Training has diverged; the message says at which step, on what text, and from where to go on.

    States past `good_step` are not to be gone on from.
    """

    def __init__(self, message: str, *, good_step: int) -> None:
        super().__init__(message)
        self.good_step = good_step


@dataclass(frozen=True)
class Trouble:
    """`from_step` is the state whose update is to blame; states up to `good_step` are to be trusted."""

    from_step: int
    what: str
    good_step: int


class DivergenceWatch:
    """Looks at the losses of one phase in order, from state `first_step` on."""

    def __init__(self, first_step: int, *, vocab_size: int, memory: Mapping[str, Any] | None = None) -> None:
        """Begin, or with what `memory` returned at some later step of the same phase go on: an interruption, or a cut of the
        phase into stages, changes no verdict."""
        self._uniform = math.log(vocab_size)
        self._first_step = first_step
        self._best, self._best_step = math.inf, first_step
        self._recent: deque[tuple[float, int]] = deque(maxlen=WINDOW_UPDATES)
        if memory is not None and memory["first_step"] == first_step:
            self._recent.extend((loss, step) for loss, step in memory["recent"])
            if memory["best"] is not None:
                self._best, self._best_step = memory["best"], memory["best_step"]

    def memory(self) -> dict[str, Any]:
        """What a watch has to know to go on from here, as plain JSON."""
        return {
            "first_step": self._first_step,
            "recent": [list(entry) for entry in self._recent],
            "best": self._best if math.isfinite(self._best) else None,
            "best_step": self._best_step,
        }

    def trouble(self, *, from_step: int, loss_nats: float, gradient_norm: float) -> Trouble | None:
        """What is wrong with the update from state `from_step`; none while all is well."""
        if not (math.isfinite(loss_nats) and math.isfinite(gradient_norm)):
            return Trouble(from_step, f"loss {loss_nats} nats, gradient norm {gradient_norm}", from_step - 1)
        self._recent.append((loss_nats, from_step))
        if len(self._recent) < WINDOW_UPDATES:
            return None
        mean = sum(loss for loss, _ in self._recent) / WINDOW_UPDATES
        if mean > self._uniform + ABOVE_UNIFORM_NATS:
            what = (
                f"the loss over the last {WINDOW_UPDATES} updates is {mean:.2f} nats, more than {ABOVE_UNIFORM_NATS:g} "
                f"above guessing ({self._uniform:.2f})"
            )
            return Trouble(max(self._recent)[1], what, min(self._first_step, self._best_step))
        if mean < self._best:
            self._best, self._best_step = mean, from_step
        elif mean > self._best + RISE_NATS:
            what = (
                f"the loss over the last {WINDOW_UPDATES} updates is {mean:.2f} nats, more than {RISE_NATS:g} above its "
                f"lowest in this phase ({self._best:.2f} at step {self._best_step})"
            )
            return Trouble(max(self._recent)[1], what, self._best_step)
        return None
