"""Steps in order, and their yields."""

from __future__ import annotations

from collections.abc import Iterable

from midstudy.prepare.document import Document
from midstudy.prepare.pipeline import run_steps
from midstudy.recipe.data import Dataset
from midstudy.recipe.preparation import Chunk, ExactDuplicates, Select, Step


def run(documents: list[Document], *steps: Step) -> tuple[list[Document], list[dict[str, object]]]:
    def nothing(*_: Dataset) -> Iterable[str]:
        return ()

    left, yields = run_steps(documents, steps, held_out=nothing, items_of=nothing)
    return [*left], [one.as_metrics() for one in yields]


def test_the_order_of_steps_matters_and_every_yield_adds_up() -> None:
    documents = [Document(text, {"of": "a" if text != "zz zz" else "b"}) for text in ("xx xx", "xx yy", "xx xx", "zz zz")]
    left, (first, second, third) = run(documents, Select(field="of", values=("a",)), ExactDuplicates(), Chunk(max_bytes=4))
    assert [document.text for document in left] == ["xx ", "xx", "xx ", "yy"]
    assert (first["documents_in"], first["documents_out"], first["left_out"]) == (4, 3, {"b": 1})
    assert first["examples"] == {"b": ["zz zz"]}
    assert (second["bytes_in"], second["bytes_out"], second["left_out"]) == (15, 10, {"repeated": 1})
    assert (third["documents_in"], third["documents_out"], third["bytes_out"]) == (2, 4, 10)
    left, _ = run(documents, Chunk(max_bytes=4), ExactDuplicates())
    assert [document.text for document in left] == ["xx ", "yy", "zz "]


def test_three_examples_of_a_reason_are_kept() -> None:
    documents = [Document(f"{number} " + "long " * 100, {"of": "b"}) for number in range(9)]
    _, (found,) = run(documents, Select(field="of", values=("a",)))
    shown = found["examples"]["b"]  # type: ignore[index]
    assert [text[:2] for text in shown] == ["0 ", "1 ", "2 "]
    assert {len(text) for text in shown} == {200}
