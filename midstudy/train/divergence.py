"""Detect divergence: non-finite loss or gradient norm, or loss far above its running minimum or above chance."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WINDOW_UPDATES = 20
"""Losses are averaged over this many updates, so that a single hard batch does not trigger it."""

RISE_NATS = 3.0
"""Allowed rise of the averaged loss above its minimum in the same phase. Rewarming the learning rate costs tenths of a nat;
a model that has forgotten everything loses about this much."""

ABOVE_UNIFORM_NATS = 3.0
"""Allowed distance of the averaged loss above chance, ln(vocabulary), the loss of an untrained model. A trained model is
above chance on text of another kind: fine-tuning on word problems, with a slow warmup, began 1.1 nats above it."""


class DivergedError(RuntimeError):
    """Training has diverged; the message names the step, its text, and the checkpoint to resume from.

    Do not resume from states past `good_step`.
    """

    def __init__(self, message: str, *, good_step: int) -> None:
        super().__init__(message)
        self.good_step = good_step


@dataclass(frozen=True)
class Trouble:
    """`from_step` is the state whose update diverged; states up to `good_step` are sound."""

    from_step: int
    what: str
    good_step: int


class DivergenceWatch:
    """Checks the losses of one phase in order, from state `first_step`."""

    def __init__(
        self,
        first_step: int,
        *,
        vocab_size: int,
        memory: Mapping[str, Any] | None = None,
        is_likelihood: bool = True,
        may_rise: bool = False,
    ) -> None:
        """Start a watch, or resume one from its `memory` at a later step of the same phase: an interruption, or splitting
        the phase into stages, does not change the result.

        Only a loss that is a likelihood is compared with chance and with its minimum; that of a policy gradient measures
        nothing by its height, and is checked for being finite. With `may_rise`, it is not compared with its minimum: where
        tasks follow each other, a task that was not read yet begins near chance.
        """
        self._may_rise = may_rise
        self._is_likelihood = is_likelihood
        self._uniform = math.log(vocab_size)
        self._first_step = first_step
        self._best, self._best_step = math.inf, first_step
        self._recent: deque[tuple[float, int]] = deque(maxlen=WINDOW_UPDATES)
        if memory is not None and memory["first_step"] == first_step:
            self._recent.extend((loss, step) for loss, step in memory["recent"])
            if memory["best"] is not None:
                self._best, self._best_step = memory["best"], memory["best_step"]

    def memory(self) -> dict[str, Any]:
        """Return the state that a watch needs to resume from here, as plain JSON."""
        return {
            "first_step": self._first_step,
            "recent": [list(entry) for entry in self._recent],
            "best": self._best if math.isfinite(self._best) else None,
            "best_step": self._best_step,
        }

    def trouble(self, *, from_step: int, loss_nats: float, gradient_norm: float) -> Trouble | None:
        """Return what is wrong with the update from state `from_step`; `None` if nothing is."""
        if not (math.isfinite(loss_nats) and math.isfinite(gradient_norm)):
            return Trouble(from_step, f"loss {loss_nats} nats, gradient norm {gradient_norm}", from_step - 1)
        self._recent.append((loss_nats, from_step))
        if len(self._recent) < WINDOW_UPDATES or not self._is_likelihood:
            return None
        mean = sum(loss for loss, _ in self._recent) / WINDOW_UPDATES
        if mean > self._uniform + ABOVE_UNIFORM_NATS:
            what = (
                f"the loss over the last {WINDOW_UPDATES} updates is {mean:.2f} nats, more than {ABOVE_UNIFORM_NATS:g} "
                f"above chance ({self._uniform:.2f})"
            )
            return Trouble(max(self._recent)[1], what, min(self._first_step, self._best_step))
        if mean < self._best:
            self._best, self._best_step = mean, from_step
        elif mean > self._best + RISE_NATS and not self._may_rise:
            what = (
                f"the loss over the last {WINDOW_UPDATES} updates is {mean:.2f} nats, more than {RISE_NATS:g} above its "
                f"minimum in this phase ({self._best:.2f} at step {self._best_step})"
            )
            return Trouble(max(self._recent)[1], what, self._best_step)
        return None
