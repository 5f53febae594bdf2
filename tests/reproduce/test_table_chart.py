"""The charts of the tables: their lines, panels and labels."""

import itertools
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from run_summaries import write_summary

from fastass.config import paper
from fastass.reproduce.chart import Chart, Line, Panel, line_chart, tick_labels
from fastass.reproduce.figure import svg
from fastass.reproduce.grids import TOYCITY_COUNTS, grid
from fastass.reproduce.table import results
from fastass.reproduce.table_chart import table_chart


def test_chart_of_methods(tmp_path: Path) -> None:
    """A line per method, the paper's dashed, and the gain over the oracle beside them."""
    table = grid("table3", None, toycity=False)
    write_summary(tmp_path, "ga_csa-50-seed0", 61.0)
    write_summary(tmp_path, "ga_csa-50-seed1", 63.0)
    write_summary(tmp_path, "ga_csa-500-seed0", 66.0)
    write_summary(tmp_path, "oracle-50-seed0", 51.0)
    write_summary(tmp_path, "oracle-50-seed1", 52.0)
    chart = table_chart(table, results(table, tmp_path, range(2)))
    assert chart is not None
    levels, differences = chart.panels
    names = ["Oracle", "GA+CSA", "Oracle (paper)", "GA (paper)", "GA+CSA (paper)"]
    assert [line.name for line in levels.lines] == names
    assert [line.dashed for line in levels.lines] == [False] * 2 + [True] * 3
    assert levels.lines[1].points == ((50, 62.0, pytest.approx(2**0.5)), (500, 66.0, None))
    assert all(len(line.points) == 6 for line in levels.lines[2:])
    assert levels.lines[1].number == levels.lines[4].number != levels.lines[0].number
    assert differences.y_label == "mIoU minus Oracle, points"
    assert differences.lines[0].points == ((50, 10.5, pytest.approx(0.5**0.5)),)  # 10 and 11
    oracle, _, csa = paper.TABLE_3[50]
    assert oracle is not None
    assert csa is not None
    assert differences.lines[2].name == "GA+CSA (paper)"
    assert differences.lines[2].points[0] == (50, pytest.approx(csa - oracle), None)


def test_chart_of_toycity_is_measured_against_joint(tmp_path: Path) -> None:
    table = grid("table1", (10, 50), toycity=True)
    for name, miou in (("joint-10", 30.0), ("ga-10", 31.0), ("oracle-10", 20.0)):
        write_summary(tmp_path, f"{name}-seed0", miou)
    chart = table_chart(table, results(table, tmp_path, range(1)))
    assert chart is not None
    assert chart.panels[1].y_label == "mIoU minus Joint, points"
    assert [(line.name, line.points) for line in chart.panels[1].lines] == [
        ("GA", ((10, 1.0, None),))
    ]


def test_chart_of_table_2_has_a_panel_per_count(tmp_path: Path) -> None:
    table = grid("table2", None, toycity=False)
    chart = table_chart(table, results(table, tmp_path, range(1)))
    assert chart is not None
    assert [panel.title for panel in chart.panels] == ["100 labelled images", "500 labelled images"]
    assert [line.name for line in chart.panels[1].lines] == ["(a) FCSA (paper)", "(b) CSA (paper)"]
    assert chart.panels[1].lines[1].points[0] == (0.001, 59.67, None)
    assert table_chart(grid("table4", None, toycity=False), []) is None


@pytest.mark.parametrize("xs", [TOYCITY_COUNTS, paper.COUNTS[1:], (0.001, 0.008, 0.01, 0.04, 0.1)])
def test_labels_of_a_chart_do_not_touch(xs: tuple[float, ...]) -> None:
    """Measured on the drawn figure: labels of ticks, titles and legend, all inside of it."""
    points = tuple((x, 30 + i, 0.5) for i, x in enumerate(xs))
    lines = (Line("Oracle", points, 1), Line("GA+FCSA (paper)", points, 4, dashed=True))
    panels = (Panel("10 labelled images", "mIoU, %", lines), Panel("", "mIoU, %", lines, zero=True))
    drawn = line_chart(Chart("mIoU against labelled target images", "labelled images", panels))
    FigureCanvasAgg(drawn).draw()
    hidden = {  # matplotlib also keeps, but does not draw, ticks outside of the axes
        id(tick.label1)
        for axes in drawn.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    texts = [t for t in drawn.findobj(Text) if t.get_text() and t.get_visible()]
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts if id(t) not in hidden]
    assert len(boxes) > 2 * len(panels) * 3
    for name, box in boxes:
        assert drawn.bbox.x0 <= box.x0, name
        assert drawn.bbox.y0 <= box.y0, name
        assert box.x1 <= drawn.bbox.x1, name
        assert box.y1 <= drawn.bbox.y1, name
    for (name, box), (other_name, other) in itertools.combinations(boxes, 2):
        assert not box.overlaps(other), (name, other_name)
    for axes in drawn.axes:
        assert [tick for tick in axes.get_xticks() if xs[0] <= tick <= xs[-1]] == [*map(float, xs)]


def test_only_close_ticks_lose_their_label() -> None:
    assert tick_labels((5, 10, 20, 50, 300)) == ["5", "10", "20", "50", "300"]
    assert tick_labels((0.001, 0.008, 0.01, 1)) == ["0.001", "0.008", "", "1"]
    assert tick_labels((100, 2900, 2975)) == ["100", "", "2975"]
    assert tick_labels((10,)) == ["10"]


def test_a_chart_is_the_same_text_every_time() -> None:
    chart = Chart("t", "x", (Panel("", "y", (Line("<a & b>", ((10, 3.0, None),)),)),))
    first, second = (svg(line_chart(chart)) for _ in range(2))
    assert first == second
    assert "<a & b>" in {text.text for text in ET.fromstring(first).findall(".//{*}text")}
    with pytest.raises(ValueError, match="at least one point"):
        line_chart(Chart("t", "x", ()))
