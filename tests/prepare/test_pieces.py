"""Pieces of long documents, and short documents joined."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from midstudy.prepare.document import Document, Yield
from midstudy.prepare.pieces import chunked, spliced
from midstudy.recipe.preparation import Chunk, Splice


def pieces(text: str, max_bytes: int) -> list[str]:
    found = Yield(step="")
    return [one.text for one in chunked(Chunk(max_bytes=max_bytes))(iter([Document(text)]), found)]


@given(text=st.text(alphabet="ab \n文é😀", max_size=80), max_bytes=st.integers(4, 40))
def test_pieces_are_the_document_and_none_is_longer_than_the_limit(text: str, max_bytes: int) -> None:
    found = pieces(text, max_bytes)
    assert "".join(found) == text
    assert all(0 < len(piece.encode("utf-8")) <= max_bytes for piece in found)


def test_pieces_end_at_the_last_paragraph_that_fits_else_at_a_line_else_at_a_space() -> None:
    assert pieces("one\n\ntwo\nthree four", 12) == ["one\n\n", "two\n", "three four"]
    assert pieces("one two three", 9) == ["one two ", "three"]
    assert pieces("abcdefgh", 5) == ["abcde", "fgh"]
    assert pieces("short", 100) == ["short"]


def test_pieces_keep_the_fields_of_their_document() -> None:
    found = [*chunked(Chunk(max_bytes=4))(iter([Document("ab cd ef", {"topic": "law"})]), Yield(step=""))]
    assert [(one.text, one.fields) for one in found] == [(text, {"topic": "law"}) for text in ("ab ", "cd ", "ef")]


@given(texts=st.lists(st.text(alphabet="ab é", min_size=1, max_size=12), max_size=12), min_bytes=st.integers(1, 40))
def test_spliced_documents_are_long_enough_and_lose_only_the_end(texts: list[str], min_bytes: int) -> None:
    found = Yield(step="")
    out = [one.text for one in spliced(Splice(min_bytes=min_bytes))(iter(map(Document, texts)), found)]
    assert all(len(text.encode("utf-8")) >= min_bytes for text in out)
    assert "\n\n".join(texts).startswith("\n\n".join(out))
    assert found.left_out == ({} if "\n\n".join(texts) == "\n\n".join(out) else {"too short at the end": 1})
