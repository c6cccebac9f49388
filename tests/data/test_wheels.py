"""The source `wheels`: a frozen list, the same text everywhere, nothing of a task's test in any training text."""

from __future__ import annotations

import ast
import gzip
import hashlib
import inspect
import json
import shutil
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

from midstudy.data import wheels
from midstudy.data.overlap import TestItems, ngrams
from midstudy.data.rows import as_example, as_text
from midstudy.data.wheels import packages, prepare
from midstudy.data.wheels.docstrings import dedented, definitions
from midstudy.data.wheels.prepare import frozen_manifest, item_text
from midstudy.data.wheels.prose import html_paragraphs, is_prose, sentences, text_paragraphs

SPLITS = ("train", "dev", "test")


def rows(part: str, split: str) -> list[dict]:
    return list(wheels.read_part(part, split))


# The list


def test_every_package_is_pinned_with_a_hash_and_pure_python() -> None:
    assert len(packages.listed()) > 20
    for path in packages.fetched().glob("*.whl"):
        assert path.name.endswith("-none-any.whl"), path
    assert len(list(packages.fetched().glob("*.whl"))) == len(packages.listed())


def test_the_revision_follows_from_the_list_and_the_preparation() -> None:
    lines = sorted(str(package) for package in packages.listed().values())
    text = "".join(f"{line}\n" for line in lines) + f"preparation {prepare.PREPARATION}\n"
    assert wheels.list_digest() == hashlib.sha256(text.encode()).hexdigest() == frozen_manifest()["revision"]
    assert frozen_manifest()["list"] == hashlib.sha256(packages.LIST.read_bytes()).hexdigest()


def test_code_corpus_and_code_task_read_different_packages() -> None:
    read = {part: set(import_module(f"midstudy.data.wheels.{part}").PACKAGES) for part in wheels.PARTS}
    assert not read["code"] & read["pycode"]
    assert not read["science_qa"] & (read["code"] | read["long_form"] | read["pycode"] | read["hqweb"])
    assert not read["long_form"] & (read["code"] | read["pycode"] | read["general"] | read["hqweb"])


def test_a_wheel_that_is_not_the_listed_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = packages.fetched()
    name = next(path.name for path in real.glob("webcolors-*.whl"))
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path))
    folder = tmp_path / "wheels" / real.name
    folder.mkdir(parents=True)
    (folder / name).write_bytes((real / name).read_bytes() + b"\0")
    refusal = rf"{name}: sha256 [0-9a-f]+; allowed: [0-9a-f]+, the listed one"
    with pytest.raises(ValueError, match=refusal), packages.opened("webcolors"):
        pass


def test_without_an_index_the_error_tells_the_command_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(ValueError, match=r"could not be fetched. They need the package index once; use --data DIR") as error:
        packages.fetched()
    assert "pip download" in str(error.value)
    assert "airportsdata" in str(error.value)
    assert list((tmp_path / "wheels").glob("*/")) == []


# The prepared parts


@pytest.mark.parametrize("part", wheels.PARTS)
def test_a_part_is_the_frozen_text_and_every_row_can_be_read(part: str) -> None:
    frozen = frozen_manifest()["parts"][part]["splits"]
    for split in SPLITS:
        found = rows(part, split)
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found).encode()
        assert (len(found), len(content)) == (frozen[split]["docs"], frozen[split]["bytes"])
        assert hashlib.sha256(content).hexdigest() == frozen[split]["sha256"]
        for row in found:
            assert (item_text(row) if part in wheels.TASKS else as_text(row, part)).strip()


def test_the_parts_are_as_large_as_a_study_needs() -> None:
    size = {
        part: {split: table["bytes"] for split, table in frozen_manifest()["parts"][part]["splits"].items()}
        for part in wheels.PARTS
    }
    docs = {
        part: {split: table["docs"] for split, table in frozen_manifest()["parts"][part]["splits"].items()}
        for part in wheels.PARTS
    }
    assert size["general"]["train"] > 8e6
    assert all(size[part]["train"] > 1.5e6 for part in wheels.CORPORA)
    assert docs["math"]["train"] > 15_000
    assert docs["pycode"]["train"] > 2_000
    assert docs["pycode"]["test"] >= 300
    assert docs["long_form"]["train"] >= 600
    assert all(docs[part]["test"] >= 100 for part in wheels.TASKS)


@pytest.mark.parametrize("task", wheels.TASKS)
def test_no_test_item_overlaps_its_own_training_items(task: str) -> None:
    items = TestItems(item_text(row) for row in rows(task, "test"))
    assert [row for split in ("train", "dev") for row in rows(task, split) if items.overlaps(item_text(row))] == []


@pytest.mark.parametrize("corpus", wheels.CORPORA)
def test_no_test_item_of_any_task_overlaps_a_corpus(corpus: str) -> None:
    items = TestItems(item_text(row) for task in wheels.TASKS for row in rows(task, "test"))
    assert [row for split in SPLITS for row in rows(corpus, split) if items.overlaps(as_text(row, corpus))] == []


@pytest.mark.slow
def test_comparing_every_run_of_thirteen_words_finds_no_overlap_either() -> None:
    tested = {gram for task in wheels.TASKS for row in rows(task, "test") for gram in ngrams(item_text(row))}
    assert len(tested) > 50_000
    for corpus in wheels.CORPORA:
        for split in SPLITS:
            for row in rows(corpus, split):
                assert tested.isdisjoint(ngrams(as_text(row, corpus)))


@pytest.mark.parametrize("part", wheels.PARTS)
def test_no_row_is_in_two_splits(part: str) -> None:
    texts = [{json.dumps({**row, "source": ""}) for row in rows(part, split)} for split in SPLITS]
    assert not texts[0] & texts[1]
    assert not (texts[0] | texts[1]) & texts[2]


def test_functions_of_a_file_are_in_one_split() -> None:
    files = [{row["source"].split()[0] for row in rows("pycode", split)} for split in SPLITS]
    assert not files[0] & files[1]
    assert not (files[0] | files[1]) & files[2]


def test_a_code_item_is_a_docstring_and_a_whole_function_without_it() -> None:
    for row in rows("pycode", "test"):
        example = as_example(row, "pycode")
        assert example.prompt.startswith('"""')
        assert example.prompt.endswith('"""\n')
        function = ast.parse(example.target).body[0]
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        assert ast.get_docstring(function) is None
        assert 200 <= len(example.target) <= 1200


def test_general_text_is_sentences_and_holds_no_code() -> None:
    for row in rows("general", "dev"):
        for line in row["text"].split("\n"):
            assert line.isascii()
            assert line[-1] in ".!?"
            assert not any(mark in line for mark in ("`", "{", "_", "()", "http", "=", "<"))


# Refusals


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own with the fetched wheels and a prepared, small part."""
    real_wheels, real_part = packages.fetched(), wheels.prepared("word_problems")
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path))
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / real_wheels.name).symlink_to(real_wheels)
    shutil.copytree(real_part, tmp_path / "prepared" / real_part.parent.name / real_part.name)
    return tmp_path / "prepared" / real_part.parent.name / real_part.name


@pytest.mark.parametrize("damage", ["another row", "truncated"])
def test_a_prepared_file_that_was_changed_is_refused(copied: Path, damage: str) -> None:
    path = copied / "dev.jsonl.gz"
    path.write_bytes(
        gzip.compress(b'{"question": "1?", "answer": "1"}\n') if damage == "another row" else path.read_bytes()[:-9]
    )
    with pytest.raises(ValueError, match=r"dev\.jsonl\.gz: .*Delete its folder; it is made again"):
        rows("word_problems", "dev")


def test_text_that_differs_from_the_frozen_is_refused_and_not_kept(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(copied)
    monkeypatch.setattr("midstudy.data.wheels.word_problems.NUM_TEST", 599)
    with pytest.raises(
        ValueError, match=r"'word_problems': the text made here is not the frozen one \(splits test: found sha256"
    ):
        wheels.prepared("word_problems")
    assert not copied.exists()
    assert list(copied.parent.glob(".*")) == []


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match="'poems': unknown; allowed: general, code"):
        wheels.prepared("poems")


@pytest.mark.slow
def test_two_processes_make_a_part_once_and_agree(copied: Path) -> None:
    shutil.rmtree(copied)
    program = "from midstudy.data import wheels; print(sum(1 for _ in wheels.read_part('math', 'dev')))"
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate()[0].strip() for process in running]
    assert answers == [str(frozen_manifest()["parts"]["math"]["splits"]["dev"]["docs"])] * 2
    assert {path.name for path in copied.parent.iterdir() if path.is_dir()} == {"math", *wheels.TASKS}


# Reading documentation


def test_docstrings_are_dedented_as_inspect_does() -> None:
    for text in (
        "One line.",
        "First.\n\n    Second\n      third\n    ",
        "\n    All\n      of it\n\n    indented.\n",
        "a\n\tb\n\t  c",
    ):
        assert dedented(text) == inspect.cleandoc(text)


MODULE = '''
class A:
    """Doc."""

    @property
    def b(self):
        """Give b.

        Always.
        """
        return 1

    def abstract(self):
        """Nothing but words."""
'''


def test_a_definitions_source_comes_without_docstring_decorator_and_indentation(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.whl", "w") as made:
        made.writestr("m.py", MODULE)
    with zipfile.ZipFile(tmp_path / "m.whl") as archive:
        found = list(definitions(packages.Archive(packages.Package("m", "1", ""), archive), "m.py"))
    assert [(one.name, one.kind, one.docstring) for one in found] == [
        ("A", "class", "Doc."),
        ("A.b", "function", "Give b.\n\nAlways."),
        ("A.abstract", "function", "Nothing but words."),
    ]
    assert found[1].source == "def b(self):\n    return 1"
    assert found[2].source == ""


def test_sentences_end_where_they_end() -> None:
    text = "Use it, e.g. The first one works. Dr. Who came. It costs 3.5 dollars! Really?"
    assert list(sentences(text)) == [
        "Use it, e.g. The first one works.",
        "Dr. Who came.",
        "It costs 3.5 dollars!",
        "Really?",
    ]


@pytest.mark.parametrize(
    ("sentence", "plain"),
    [
        ("The name of the bucket that holds the snapshot of the cluster.", True),
        ("You can, however, wait until the next maintenance window begins.", True),
        ("Too short to be of any use.", False),
        ("Set the max_items parameter to a larger number and try again.", False),
        ("Call describe() once more when the operation has been completed.", False),
        ("See https://example.org for all the details of this operation.", False),
        ("The maxResults parameter limits how many items are returned here.", False),
        ("the sentence begins with a small letter and goes on for a while.", False),
        ("A heading without a full stop that goes on and on and on", False),
    ],
)
def test_what_looks_like_code_is_no_prose(sentence: str, plain: bool) -> None:
    assert is_prose(sentence) == plain


def test_html_becomes_paragraphs_and_inline_code_takes_its_sentence_with_it() -> None:
    markup = (
        "<p>The first sentence has nothing but plain words in it. Set <code>Foo</code> before you begin with the work.</p>"
        "<ul><li>An item of a list is a paragraph of its own &amp; stays.</li></ul>"
    )
    found = list(html_paragraphs(markup))
    assert len(found) == 2
    assert [one for one in sentences(found[0]) if is_prose(one)] == ["The first sentence has nothing but plain words in it."]
    assert found[1] == "An item of a list is a paragraph of its own & stays."
    assert "Set Foo before" in next(html_paragraphs(markup, literals=True))


def test_text_paragraphs_leave_out_doctests_tables_headings_and_directives() -> None:
    text = (
        "A plain paragraph with :class:`~a.B` and *emphasis*\nover two lines.\n\nHeading\n-------\n\n>>> code()\n\n"
        ".. note::\n   indented\n\n==== ====\na    b\n==== ====\n\n    literal block\n\nWith ``literal`` text."
    )
    assert list(text_paragraphs(text)) == ["A plain paragraph with a.B and emphasis over two lines.", "With \x00 text."]
    assert list(text_paragraphs(text, literals=True))[1] == "With literal text."
