"""Pairs of corpora: values at equal sizes, ceilings, intervals that hold what they claim, independence of order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from midstudy.similarity.corpora import Compared, compare_corpora
from midstudy.similarity.grouped_counts import NUM_GROUPS, Counting, GroupedCounts, group_of
from midstudy.similarity.measures import MEASURES, measures
from midstudy.similarity.units import Grams, orders_of

LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz"))


def texts_of(seed: int, *, number: int, tilt: float, length: int = 60) -> list[str]:
    """Documents of letters. Each draws from frequencies of its own, around a geometric law that `tilt` turns."""
    rng = np.random.default_rng(seed)
    centre = np.exp(-tilt * np.arange(26))
    return [
        "".join(rng.choice(LETTERS, size=length, p=rng.dirichlet(40 * centre / centre.sum() + 0.01))) for _ in range(number)
    ]


def counted(texts: Sequence[str], view: str = "bytes:1") -> list[GroupedCounts]:
    found = []
    for grams in orders_of(view):
        counting = Counting()
        counting.add(*grams.keys(texts), [group_of(text) for text in texts])
        found.append(counting.counts())
    return found


def compared(
    corpora: dict[str, list[str]], *, equal: str = "none", view: str = "bytes:1", num_replicates: int = 40, seed: int = 0
) -> Compared:
    sizes = {
        name: np.bincount([group_of(text) for text in texts], [len(text.encode()) for text in texts], NUM_GROUPS).astype(int)
        for name, texts in corpora.items()
    }
    counts = {name: counted(texts, view) for name, texts in corpora.items()}
    return compare_corpora(counts, equal=equal, group_bytes=sizes, num_replicates=num_replicates, seed=seed)


A, B, C = texts_of(1, number=200, tilt=0.1), texts_of(2, number=300, tilt=0.2), texts_of(3, number=150, tilt=-0.1)


@pytest.mark.parametrize("view", ["bytes:2", "words:1", "chars:2"])
def test_whole_corpora_have_the_measures_of_brute_force_counts(view: str) -> None:
    corpora = {"a": [f"{text[:30]} {text[30:]}" for text in A[:40]], "b": [f"{text[:20]} {text[20:25]}" for text in B[:30]]}
    found = compared(corpora, view=view)
    kind, order = view.split(":")
    counters = []
    for texts in corpora.values():
        symbols = [text.lower().split() if kind == "words" else list(text.lower()) for text in texts]
        counters.append(Counter(tuple(one[i : i + int(order)]) for one in symbols for i in range(len(one) - int(order) + 1)))
    union = sorted(counters[0].keys() | counters[1].keys())
    expected = measures(*([counter[gram] for gram in union] for counter in counters))
    for name in MEASURES:
        assert found.value("a", "b", name).value == pytest.approx(expected[name], abs=1e-12), name


def test_several_orders_are_averaged() -> None:
    corpora = {"a": A, "b": B}
    alone = [compared(corpora, view=f"bytes:{order}").value("a", "b", "cosine").value for order in (1, 2, 3)]
    together = compared(corpora, view="bytes:1-3").value("a", "b", "cosine").value
    assert together == pytest.approx(np.mean(alone), abs=1e-12)


def test_the_order_of_documents_changes_nothing() -> None:
    first = compared({"a": A, "b": B}, equal="units")
    second = compared({"a": A[::-1], "b": [*B[100:], *B[:100]]}, equal="units")
    assert first == second


def test_both_directions_of_kl_are_found_under_either_order() -> None:
    found = compared({"a": A, "b": B})
    assert found.value("b", "a", "kl_nats") == found.value("a", "b", "reverse_kl_nats")
    assert found.value("b", "a", "js") == found.value("a", "b", "js")


def test_both_sides_of_every_comparison_have_the_size_of_the_smallest_half() -> None:
    found = compared({"a": A, "b": B, "c": C}, equal="units")
    sizes = {units[0] for units in found.units_per_side.values()}
    assert len(sizes) == 1
    assert 0.45 * 150 * 60 < sizes.pop() <= 150 * 60 / 2
    assert found.num_units == {"a": [12_000], "b": [18_000], "c": [9_000]}


def test_equal_bytes_are_as_many_units_as_stand_in_them() -> None:
    wide = [text.replace("", "é")[:60] for text in A]  # half of the characters have two bytes
    found = compared({"a": A, "wide": wide}, equal="bytes", view="chars:1")
    bytes_per_unit = sum(len(text.encode()) for text in wide) / sum(map(len, wide))
    assert found.units_per_side["a"][0] / found.units_per_side["wide"][0] == pytest.approx(bytes_per_unit, rel=0.01)


def test_more_text_of_the_same_kind_looks_closer_only_without_rarefaction() -> None:
    def of(number: int, seed: int) -> list[str]:
        return texts_of(seed, number=number, tilt=0.1)

    few, many, other = of(30, 11), of(600, 12), of(600, 13)
    whole = compared({"few": few, "many": many, "other": other}, view="bytes:2")
    assert whole.value("many", "other", "js").value - whole.value("few", "other", "js").value > 0.02
    equal = compared({"few": few, "many": many, "other": other}, view="bytes:2", equal="units")
    assert equal.value("many", "other", "js").value == pytest.approx(equal.value("few", "other", "js").value, abs=0.012)


def test_the_ceiling_is_what_another_sample_of_the_corpus_reaches() -> None:
    found = compared({"a": A, "again": texts_of(21, number=200, tilt=0.1), "b": B}, equal="units", view="bytes:2")
    ceiling = found.ceilings["a"]["js"]
    assert found.value("a", "again", "js").value == pytest.approx(ceiling, abs=0.01)
    assert found.value("a", "b", "js").value < ceiling - 0.02


def test_intervals_are_as_wide_as_new_samples_of_documents_spread() -> None:
    """Planted: 40 pairs of samples from two known laws. Their spread is what one sample's bootstrap has to find."""
    results = [
        compared(
            {"a": texts_of(100 + seed, number=80, tilt=0.1), "b": texts_of(200 + seed, number=80, tilt=0.2)},
            num_replicates=60,
            seed=seed,
        )
        for seed in range(40)
    ]
    for name in ("js", "cosine", "hellinger", "kl_nats"):
        values = [result.value("a", "b", name) for result in results]
        spread = float(np.std([value.value for value in values], ddof=1))
        half_widths = [value.high - value.value for value in values if value.high is not None]
        assert len(half_widths) == 40
        # The standard deviation of 40 values is known within a fifth; t is about 2.02.
        assert 0.7 < float(np.mean(half_widths)) / 2.02 / spread < 1.45, name


def test_one_document_has_values_but_neither_interval_nor_ceiling() -> None:
    found = compared({"a": A, "one": B[:1]}, equal="units")
    value = found.value("a", "one", "js")
    assert 0.5 < value.value <= 1
    assert (value.low, value.high) == (None, None)
    assert set(found.ceilings) == {"a"}


def test_blocks_of_the_vocabulary_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compared({"a": A, "b": B}, view="bytes:2")
    monkeypatch.setattr("midstudy.similarity.corpora._BLOCK_NUMBERS", 7 * 2 * 41)
    assert compared({"a": A, "b": B}, view="bytes:2").value("a", "b", "combined").value == pytest.approx(
        whole.value("a", "b", "combined").value, abs=1e-12
    )


def test_progress_ends_at_1() -> None:
    seen: list[float] = []
    counts = {name: counted(texts, "bytes:1-2") for name, texts in (("a", A), ("b", B))}
    compare_corpora(counts, equal="none", group_bytes={}, on_done=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_bad_input_is_named() -> None:
    empty = GroupedCounts(np.zeros(0, np.uint64), np.zeros(0, np.int64))
    counts = {"a": counted(A), "b": counted(B)}
    with pytest.raises(ValueError, match="expected at least two corpora, got 1"):
        compare_corpora({"a": counts["a"]}, equal="none", group_bytes={})
    with pytest.raises(ValueError, match="empty: expected documents with at least one unit, got none"):
        compare_corpora({"a": counts["a"], "empty": [empty]}, equal="none", group_bytes={})
    with pytest.raises(ValueError, match="equal: expected units, bytes or none, got 'lines'"):
        compare_corpora(counts, equal="lines", group_bytes={})


def test_grams_of_any_view_are_the_units_that_are_counted() -> None:
    assert counted(["abc", "abd"], "bytes:2")[0].num_units == int(Grams("bytes", 2).keys(["abc", "abd"])[1].sum()) == 4
