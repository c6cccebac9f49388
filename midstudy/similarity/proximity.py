"""Proximity advantage: how much closer a midtraining mix lies to a task than the general-only control does.

PA(M → T) = sim(M, T) − sim(C, T) (arXiv 2510.14865), for the combined score and for each of its parts. The mix M holds
its specialist corpora at their shares and the general corpus, *the same documents as in C*, at the rest: at weight 0 the
advantage is exactly zero, and noise in the general sample cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from midstudy.similarity.distribution import Similarity
from midstudy.similarity.halves import SplitSample, compare_samples, mix_samples


@dataclass(frozen=True)
class ProximityAdvantage:
    """PA by measure; positive: the mix is closer to the task than the control is. ``js`` uses 1 / (1 + JSD)."""

    combined: float
    cosine: float
    jaccard: float
    js: float


@dataclass(frozen=True)
class Mix:
    """A midtraining mix: ``specialists`` by name at their shares of the tokens, general text at the rest.

    ``weight`` is the sum of the shares, as the arms of the mix have it to the last digit.
    """

    name: str
    weight: float
    specialists: Mapping[str, float]

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight <= 1.0:
            raise ValueError(f"mix '{self.name}': weight {self.weight} is outside [0, 1]")

    def of(self, corpora: Mapping[str, SplitSample], *, general: str) -> SplitSample:
        """The mix of samples by name, ``general`` among them.

        Raises ValueError where a corpus was not sampled, and where the shares do not add up to the weight.
        """
        for corpus in (general, *self.specialists):
            if corpus not in corpora:
                raise ValueError(f"no token counts of the corpus '{corpus}'; counted are: {', '.join(corpora) or 'none'}")
        parts = [(corpora[corpus], share) for corpus, share in self.specialists.items()]
        return mix_samples([*parts, (corpora[general], 1.0 - self.weight)])


def proximity_advantage(*, mix_to_task: Similarity, control_to_task: Similarity) -> ProximityAdvantage:
    """sim(M, T) − sim(C, T) for each measure."""
    return ProximityAdvantage(
        combined=mix_to_task.combined - control_to_task.combined,
        cosine=mix_to_task.cosine - control_to_task.cosine,
        jaccard=mix_to_task.jaccard - control_to_task.jaccard,
        js=mix_to_task.js - control_to_task.js,
    )


def proximity_rows(
    *,
    general: str,
    corpora: Mapping[str, SplitSample],
    tasks: Mapping[str, SplitSample],
    mixes: Sequence[Mix],
) -> list[dict[str, object]]:
    """One row per (mix, weight, task), ready for a table.

    ``general`` names the general corpus in ``corpora``. Columns: mix, weight, task; pa_combined, pa_cosine, pa_jaccard,
    pa_js; mix_* and control_* with the two similarities behind them (cosine, jaccard, jsd_nats, combined).

    Raises ValueError where a corpus that a mix needs was not sampled.
    """
    mixed = [one.of(corpora, general=general) for one in mixes]
    control_to_task = {task: compare_samples(corpora[general], sample) for task, sample in tasks.items()}
    rows: list[dict[str, object]] = []
    for one, sample_of_mix in zip(mixes, mixed, strict=True):
        for task, sample in tasks.items():
            mix_to_task = compare_samples(sample_of_mix, sample)
            advantage = proximity_advantage(mix_to_task=mix_to_task, control_to_task=control_to_task[task])
            rows.append(
                {"mix": one.name, "weight": one.weight, "task": task}
                | {f"pa_{measure}": value for measure, value in asdict(advantage).items()}
                | {f"mix_{measure}": value for measure, value in asdict(mix_to_task).items()}
                | {f"control_{measure}": value for measure, value in asdict(control_to_task[task]).items()}
            )
    return rows
