"""`midstudy compare`: what it prints, draws and rejects."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest

from midstudy.cli.compared import Progress
from midstudy.cli.main import main


def arguments(text: Path) -> list[str]:
    return [f"general={text}", f"code={text}"]


def test_prints_a_matrix_for_each_view(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *arguments(text)]) == 0
    output = capsys.readouterr()
    assert f"general  {text}: 300 documents, " in output.out
    assert "bytes:3, js, " in output.out
    assert "words:1-2, js, " in output.out
    row = next(line for line in output.out.splitlines() if line.startswith("code  "))
    rows = [line.split() for line in output.out.splitlines() if line.startswith("code ") and "[" in line]
    assert row
    assert len(rows) == 2
    for _, value, half_width, ceiling in rows:
        assert 0.59 < float(value) < float(ceiling.strip("[]")) <= 1
        assert float(half_width.strip("±")) < 0.05
    assert output.err == ""


def test_json_has_every_measure_and_nothing_else_is_printed(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *arguments(text), "--over", "words:1", "--equal", "bytes", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["equal"] == "bytes"
    assert facts["views"][0]["pairs"][0]["measures"].keys() >= {"js", "combined", "kl_nats", "total_variation"}


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_plot_is_drawn_beside_the_text(text: Path, tmp_path: Path, ending: str) -> None:
    plot = tmp_path / f"matrix.{ending}"
    assert main(["compare", *arguments(text), "--measure", "hellinger", "--over", "compression", "--plot", str(plot)]) == 0
    assert plot.stat().st_size > 3_000


@pytest.mark.parametrize("plot", ["matrix.txt", "/no/such/folder/matrix.png"])
def test_a_plot_elsewhere_is_rejected_before_anything_is_read(
    plot: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "a=/no/a", "b=/no/b", "--plot", plot]) == 2
    assert "midstudy compare: --plot: expected a file in an existing folder that ends in .png" in capsys.readouterr().err


def test_a_missing_file_is_one_message(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", f"general={text}", f"code={text}/none.jsonl"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("midstudy compare: compare.code: expected NAME=SOURCE with a folder, a file, ")
    assert error.count("\n") == 1


def test_progress_is_quiet_at_first_and_one_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = Terminal()
    progress = Progress(stream)
    progress("early")
    assert stream.getvalue() == ""
    now[0] += 3
    progress("general: 40 % read")
    progress("general: 41 % read")
    progress.close()
    assert stream.getvalue().startswith("\rgeneral: 40 % read ")
    assert "41" not in stream.getvalue()
    assert stream.getvalue().endswith("\r")
