"""The source `wheels`: a frozen list, the same text on every machine, no overlap of training text with test items."""

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

from midstudy.data import builtin
from midstudy.data.builtin import frozen_manifest, packages, prepare
from midstudy.data.builtin.docstrings import dedented, definitions
from midstudy.data.builtin.prepare import item_text
from midstudy.data.builtin.prose import html_paragraphs, is_prose, sentences, text_paragraphs
from midstudy.data.overlap import TestItems, ngrams
from midstudy.data.rows import as_example, as_text

SPLITS = ("train", "dev", "test")


def rows(part: str, split: str) -> list[dict]:
    return list(builtin.read_part(part, split))


# The list


def test_every_package_is_pinned_with_a_hash_and_pure_python() -> None:
    assert len(packages.listed()) > 20
    for path in packages.fetched().glob("*.whl"):
        assert path.name.endswith("-none-any.whl"), path
    assert len(list(packages.fetched().glob("*.whl"))) == len(packages.listed())


def test_the_revision_follows_from_the_list_and_the_preparation() -> None:
    lines = sorted(str(package) for package in packages.listed().values())
    text = "".join(f"{line}\n" for line in lines) + f"preparation {prepare.PREPARATION}\n"
    assert builtin.list_digest() == hashlib.sha256(text.encode()).hexdigest() == frozen_manifest()["revision"]
    assert frozen_manifest()["list"] == hashlib.sha256(packages.LIST.read_bytes()).hexdigest()


def test_code_corpus_and_code_task_read_different_packages() -> None:
    read = {part: set(import_module(f"midstudy.data.builtin.{part}").PACKAGES) for part in builtin.PARTS}
    assert not read["code"] & read["pycode"]
    assert not read["science_qa"] & (read["code"] | read["long_form"] | read["pycode"] | read["hqweb"])
    assert not read["long_form"] & (read["code"] | read["pycode"] | read["general"] | read["hqweb"])


def test_a_wheel_that_differs_from_the_listed_one_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = packages.fetched()
    name = next(path.name for path in real.glob("webcolors-*.whl"))
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path))
    folder = tmp_path / "wheels" / real.name
    folder.mkdir(parents=True)
    (folder / name).write_bytes((real / name).read_bytes() + b"\0")
    message = rf"{name}: expected sha256 [0-9a-f]+, the listed one, got [0-9a-f]+"
    with pytest.raises(ValueError, match=message), packages.open_wheel("webcolors"):
        pass


def test_without_a_package_index_the_error_gives_the_command_and_a_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(ValueError, match=r"could not be fetched\. The package index is needed once; .* --data DIR") as error:
        packages.fetched()
    assert "pip download" in str(error.value)
    assert "airportsdata" in str(error.value)
    assert list((tmp_path / "wheels").glob("*/")) == []


# The prepared parts


@pytest.mark.parametrize("part", builtin.PARTS)
def test_a_part_has_the_frozen_text_and_every_row_can_be_read(part: str) -> None:
    frozen = frozen_manifest()["parts"][part]["splits"]
    for split in SPLITS:
        split_rows = rows(part, split)
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in split_rows).encode()
        assert (len(split_rows), len(content)) == (frozen[split]["docs"], frozen[split]["bytes"])
        assert hashlib.sha256(content).hexdigest() == frozen[split]["sha256"]
        for row in split_rows:
            assert (item_text(row) if part in builtin.TASKS else as_text(row, part)).strip()


def test_the_parts_are_large_enough_for_a_study() -> None:
    size = {
        part: {split: table["bytes"] for split, table in frozen_manifest()["parts"][part]["splits"].items()}
        for part in builtin.PARTS
    }
    docs = {
        part: {split: table["docs"] for split, table in frozen_manifest()["parts"][part]["splits"].items()}
        for part in builtin.PARTS
    }
    assert size["general"]["train"] > 8e6
    assert all(size[part]["train"] > 1.5e6 for part in builtin.CORPORA)
    assert docs["math"]["train"] > 15_000
    assert docs["pycode"]["train"] > 2_000
    assert docs["pycode"]["test"] >= 300
    assert docs["long_form"]["train"] >= 600
    assert all(docs[part]["test"] >= 100 for part in builtin.TASKS)


@pytest.mark.parametrize("task", builtin.TASKS)
def test_no_test_item_overlaps_its_own_training_items(task: str) -> None:
    items = TestItems(item_text(row) for row in rows(task, "test"))
    assert [row for split in ("train", "dev") for row in rows(task, split) if items.overlaps(item_text(row))] == []


@pytest.mark.parametrize("corpus", builtin.CORPORA)
def test_no_test_item_of_any_task_overlaps_a_corpus(corpus: str) -> None:
    items = TestItems(item_text(row) for task in builtin.TASKS for row in rows(task, "test"))
    assert [row for split in SPLITS for row in rows(corpus, split) if items.overlaps(as_text(row, corpus))] == []


@pytest.mark.slow
def test_there_is_no_overlap_without_anchors_either() -> None:
    tested = {gram for task in builtin.TASKS for row in rows(task, "test") for gram in ngrams(item_text(row))}
    assert len(tested) > 50_000
    for corpus in builtin.CORPORA:
        for split in SPLITS:
            for row in rows(corpus, split):
                assert tested.isdisjoint(ngrams(as_text(row, corpus)))


@pytest.mark.parametrize("part", builtin.PARTS)
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


def test_general_text_is_sentences_without_code() -> None:
    for row in rows("general", "dev"):
        for line in row["text"].split("\n"):
            assert line.isascii()
            assert line[-1] in ".!?"
            assert not any(mark in line for mark in ("`", "{", "_", "()", "http", "=", "<"))


# Rejections


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small prepared part in a separate cache, with the fetched wheels."""
    real_wheels, real_part = packages.fetched(), builtin.prepared("word_problems")
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path))
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / real_wheels.name).symlink_to(real_wheels)
    shutil.copytree(real_part, tmp_path / "prepared" / real_part.parent.name / real_part.name)
    return tmp_path / "prepared" / real_part.parent.name / real_part.name


@pytest.mark.parametrize("damage", ["another row", "truncated"])
def test_a_prepared_file_that_was_changed_is_rejected(copied: Path, damage: str) -> None:
    path = copied / "dev.jsonl.gz"
    path.write_bytes(
        gzip.compress(b'{"question": "1?", "answer": "1"}\n') if damage == "another row" else path.read_bytes()[:-9]
    )
    with pytest.raises(ValueError, match=r"dev\.jsonl\.gz: .*Delete its folder; it is made again"):
        rows("word_problems", "dev")


def test_text_that_differs_from_the_frozen_text_is_rejected_and_not_kept(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copied)
    monkeypatch.setattr("midstudy.data.builtin.word_problems.NUM_TEST", 599)
    with pytest.raises(
        ValueError, match=r"'word_problems': the text made here differs from the frozen one \(splits test: expected sha256"
    ):
        builtin.prepared("word_problems")
    assert not copied.exists()
    assert list(copied.parent.glob(".*")) == []


def test_an_unknown_part_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"wheels part: expected one of general, code, .*, got 'poems'"):
        builtin.prepared("poems")


@pytest.mark.slow
def test_two_processes_make_a_part_once_and_agree(copied: Path) -> None:
    shutil.rmtree(copied)
    program = "from midstudy.data import builtin; print(sum(1 for _ in builtin.read_part('math', 'dev')))"
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate()[0].strip() for process in running]
    assert answers == [str(frozen_manifest()["parts"]["math"]["splits"]["dev"]["docs"])] * 2
    assert {path.name for path in copied.parent.iterdir() if path.is_dir()} == {"math", *builtin.TASKS}


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


def test_a_definitions_source_is_without_docstring_decorator_and_indentation(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.whl", "w") as wheel:
        wheel.writestr("m.py", MODULE)
    with zipfile.ZipFile(tmp_path / "m.whl") as archive:
        documented = list(definitions(packages.Archive(packages.Package("m", "1", ""), archive), "m.py"))
    assert [(definition.name, definition.kind, definition.docstring) for definition in documented] == [
        ("A", "class", "Doc."),
        ("A.b", "function", "Give b.\n\nAlways."),
        ("A.abstract", "function", "Nothing but words."),
    ]
    assert documented[1].source == "def b(self):\n    return 1"
    assert documented[2].source == ""


def test_text_is_split_into_sentences() -> None:
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
def test_sentences_that_look_like_code_are_not_prose(sentence: str, plain: bool) -> None:
    assert is_prose(sentence) == plain


def test_html_becomes_paragraphs_and_sentences_with_inline_code_are_dropped() -> None:
    markup = (
        "<p>The first sentence has nothing but plain words in it. Set <code>Foo</code> before you begin with the work.</p>"
        "<ul><li>An item of a list is a paragraph of its own &amp; stays.</li></ul>"
    )
    paragraphs = list(html_paragraphs(markup))
    assert len(paragraphs) == 2
    prose = [sentence for sentence in sentences(paragraphs[0]) if is_prose(sentence)]
    assert prose == ["The first sentence has nothing but plain words in it."]
    assert paragraphs[1] == "An item of a list is a paragraph of its own & stays."
    assert "Set Foo before" in next(html_paragraphs(markup, literals=True))


def test_doctests_tables_headings_and_directives_are_left_out() -> None:
    text = (
        "A plain paragraph with :class:`~a.B` and *emphasis*\nover two lines.\n\nHeading\n-------\n\n>>> code()\n\n"
        ".. note::\n   indented\n\n==== ====\na    b\n==== ====\n\n    literal block\n\nWith ``literal`` text."
    )
    assert list(text_paragraphs(text)) == ["A plain paragraph with a.B and emphasis over two lines.", "With \x00 text."]
    assert list(text_paragraphs(text, literals=True))[1] == "With literal text."
