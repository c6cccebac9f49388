"""The pictures of `compare --plot` and `recommend --plot`: numbers stay in their cells, no text is cut or covered."""

from __future__ import annotations

from itertools import combinations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from midstudy.report.figures.corpora import corpora_figure
from midstudy.report.figures.recommendation import GainRow, recommendation_figure

SHORT = ["general", "code", "math"]
LONG = ["general", "code", "mathematics_textbooks", "instruction", "qa", "hqweb_filtered_2024", "word_problems"]
ROWS = [GainRow("code", 0.02, 0.01, 0.03, 1), GainRow("math", 0.019, 0.012, 0.026, 1), GainRow("x", 0.0, 0.0, 0.01, None)]


def shown(figure: Figure) -> list[Text]:
    figure.draw(FigureCanvasAgg(figure).get_renderer())
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    return [text for text in texts if text.get_visible() and text.get_text() and text.axes is not None]


def matrices(names: list[str], num_panels: int) -> Figure:
    values = {(a, b): (len(a) * 7 + len(b)) % 100 / 100 for a in names for b in names}
    return corpora_figure(names, {f"embedding:0123abc{number}, cosine": values for number in range(num_panels)})


@pytest.mark.parametrize("num_panels", [1, 2, 3])
@pytest.mark.parametrize("names", [SHORT, LONG[:5], LONG, [*LONG, "a_very_long_name_of_a_corpus", "b"]], ids=len)
def test_numbers_of_a_matrix_stay_in_their_cells_and_names_in_the_picture(names: list[str], num_panels: int) -> None:
    figure = matrices(names, num_panels)
    texts = shown(figure)
    cells = 0
    for axes in figure.axes:
        boxes = [one.get_window_extent() for one in axes.patches if isinstance(one, Rectangle)]
        for text in axes.texts:
            extent = text.get_window_extent().padded(3)  # numbers of neighbours do not touch
            assert any(box.x0 <= extent.x0 and extent.x1 <= box.x1 and box.y0 <= extent.y0 and extent.y1 <= box.y1
                       for box in boxes), text.get_text()  # fmt: skip
            cells += 1
    assert cells == num_panels * len(names) ** 2
    for text in texts:
        extent = text.get_window_extent()
        assert figure.bbox.x0 <= extent.x0
        assert extent.x1 <= figure.bbox.x1, text.get_text()
        assert extent.y1 <= figure.bbox.y1, text.get_text()


@pytest.mark.parametrize("placebo_gain", [-0.001, 0.0, 0.015, 0.03, 0.0311])
def test_the_name_of_further_general_text_is_whole_and_alone(placebo_gain: float) -> None:
    figure = recommendation_figure(ROWS, placebo_gain=placebo_gain, target="a_target_with_a_long_name", share=0.125)
    texts = shown(figure)
    for text in texts:
        extent = text.get_window_extent()
        assert figure.bbox.x0 <= extent.x0 <= extent.x1 <= figure.bbox.x1, text.get_text()
    for one, other in combinations(texts, 2):
        assert not one.get_window_extent().overlaps(other.get_window_extent()), (one.get_text(), other.get_text())
