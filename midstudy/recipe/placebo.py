"""The placebo: general text that is mixed in like a specialist, so that an effect can be read against it.

Midtraining on a specialist changes two things: which text is read, and how. The specialist's documents are read in an order
of their own and repeat sooner, because there are fewer of them. A placebo changes only the second.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from midstudy.recipe.data import Corpus
from midstudy.recipe.errors import RecipeError, require_kind
from midstudy.recipe.exact_share import exact_share
from midstudy.recipe.train_part import TrainPart


def placebo(corpus: Corpus, share: float | str | Fraction = 0.2, *, name: str = "placebo") -> tuple[Corpus, Corpus]:
    """Split the train documents of a general corpus; return the rest, under the corpus's name, and the placebo.

    The two have no document in common, and together they are the corpus: use the rest wherever a study without a placebo
    would use the corpus. Both keep its dev and test splits, so that losses on them are comparable. `Corpus.max_bytes`
    limits the text before it is split. A part can be split further.

    Args:
        share: expected share of the documents in the placebo. Whole documents are chosen by their hash, so the share
            of the bytes differs from it by chance.

    Raises:
        RecipeError: the share is not above 0 and below 1.
    """
    require_kind("placebo.corpus", corpus, Corpus, expected="a Corpus")
    exact = exact_share("placebo.share", share)
    if not 0 < exact < 1:
        raise RecipeError("placebo.share", expected="a share above 0 and below 1", got=share)
    start, stop = (corpus.train_part.start, corpus.train_part.stop) if corpus.train_part else (Fraction(0), Fraction(1))
    cut = stop - exact * (stop - start)
    return (
        replace(corpus, train_part=TrainPart(start=start, stop=cut)),
        replace(corpus, train_part=TrainPart(start=cut, stop=stop), name=name),
    )
