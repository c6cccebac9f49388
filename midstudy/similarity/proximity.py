"""Proximity advantage: how much closer a mix lies to a task than its reference corpus does.

PA(M → T) = sim(M, T) − sim(C, T) (arXiv 2510.14865), for the combined score and for each of its parts. If the mix M contains
its reference C, it uses *the same documents as C*. Therefore the advantage is exactly zero at a share of 1, and noise in the
sample of C cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from midstudy.similarity.distribution import Similarity
from midstudy.similarity.halves import SplitSample, compare_samples, mix_samples


@dataclass(frozen=True)
class ProximityAdvantage:
    """PA by measure; positive if the mix is closer to the task than its reference is. `js` uses 1 / (1 + JSD)."""

    combined: float
    cosine: float
    jaccard: float
    js: float


@dataclass(frozen=True)
class Mix:
    """A midtraining mix: token shares of corpora by name, and the reference corpus.

    `factors` are the factors of the arms that train on it; they become columns.
    """

    name: str
    shares: Mapping[str, float]
    reference: str
    factors: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if abs(sum(self.shares.values()) - 1.0) > 1e-9 or any(share < 0.0 for share in self.shares.values()):
            raise ValueError(f"mix '{self.name}': expected shares that add up to 1, got {dict(self.shares)}")

    def of(self, corpora: Mapping[str, SplitSample]) -> SplitSample:
        """Return the mix of these samples, which are given by corpus name.

        Raises:
            ValueError: a corpus of the mix or its reference was not sampled.
        """
        for corpus in (self.reference, *self.shares):
            if corpus not in corpora:
                known = ", ".join(corpora) or "none"
                raise ValueError(f"expected token counts of the corpus '{corpus}', got counts of: {known}")
        return mix_samples([(corpora[corpus], share) for corpus, share in self.shares.items()])


def proximity_advantage(*, mix_to_task: Similarity, control_to_task: Similarity) -> ProximityAdvantage:
    """Return sim(M, T) − sim(C, T) for each measure."""
    return ProximityAdvantage(
        combined=mix_to_task.combined - control_to_task.combined,
        cosine=mix_to_task.cosine - control_to_task.cosine,
        jaccard=mix_to_task.jaccard - control_to_task.jaccard,
        js=mix_to_task.js - control_to_task.js,
    )


def proximity_rows(
    *, corpora: Mapping[str, SplitSample], tasks: Mapping[str, SplitSample], mixes: Sequence[Mix]
) -> list[dict[str, object]]:
    """Return one table row for each mix and task.

    Columns: mix_name, the factors of the mix, task, reference; pa_combined, pa_cosine, pa_jaccard, pa_js; mix_* and
    control_* with the similarities of the mix and of its reference (cosine, jaccard, jsd_nats, combined).

    Raises:
        ValueError: a corpus that a mix needs was not sampled.
    """
    mixed = [mix.of(corpora) for mix in mixes]
    references = dict.fromkeys(mix.reference for mix in mixes)
    control = {
        (reference, task): compare_samples(corpora[reference], sample)
        for reference in references
        for task, sample in tasks.items()
    }
    rows: list[dict[str, object]] = []
    for mix, mix_sample in zip(mixes, mixed, strict=True):
        for task, sample in tasks.items():
            mix_to_task, control_to_task = compare_samples(mix_sample, sample), control[mix.reference, task]
            advantage = proximity_advantage(mix_to_task=mix_to_task, control_to_task=control_to_task)
            rows.append(
                {"mix_name": mix.name, **mix.factors, "task": task, "reference": mix.reference}
                | {f"pa_{measure}": value for measure, value in asdict(advantage).items()}
                | {f"mix_{measure}": value for measure, value in asdict(mix_to_task).items()}
                | {f"control_{measure}": value for measure, value in asdict(control_to_task).items()}
            )
    return rows
