"""The report in a browser: nothing is cut off, and what it offers works by mouse and keys."""

from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Browser, browser
from report_pages import make_run, report


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if CHROMIUM is None:
        pytest.skip("no chromium")
    root = tmp_path_factory.mktemp("pages")
    runs = [make_run(root / "a"), make_run(root / "b", seed=1)]
    report(*runs)
    with browser(root / "profile") as opened:
        yield opened, root / "report.html"


def test_in_a_browser(page: tuple[Browser, Path]) -> None:
    view, path = page
    for width in (1280, 360):
        view.open(path, width)
        assert view.run("document.documentElement.scrollWidth") <= width
        assert view.complaints() == []
        assert view.requests() == [path.as_uri()]


def test_the_slider_moves_by_mouse_and_keys(page: tuple[Browser, Path]) -> None:
    view, path = page
    view.open(path)
    view.run(
        "document.querySelector('.compare').scrollIntoView({block: 'center', behavior: 'instant'})"
    )
    at = "getComputedStyle(document.querySelector('.compare')).getPropertyValue('--x').trim()"
    assert view.run(at) == "50%"
    box = view.run(
        "(({left, top, width, height}) => [left, top, width, height])"
        "(document.querySelector('.compare').getBoundingClientRect())"
    )
    y = box[1] + box[3] * 0.5
    view.drag((box[0] + box[2] * 0.5, y), (box[0] + box[2] * 0.2, y))
    moved = float(view.run(at).rstrip("%"))
    assert 10 < moved < 30
    view.key("ArrowRight")
    assert float(view.run(at).rstrip("%")) == moved + 1
    view.key("Home")
    assert view.run(at) == "0%"


def test_curves_and_pictures_tell_their_values(page: tuple[Browser, Path]) -> None:
    view, path = page
    view.open(path)
    view.run("document.querySelector('.plot').focus()")
    view.key("Home")
    said = "document.querySelector('.plot').getAttribute('aria-valuetext')"
    assert view.run(said) == "step 300: a 22.0, b 22.0"
    view.key("ArrowRight")
    assert view.run(said) == "step 800: a 47.0, b 47.0"
    view.run("document.querySelector('.probe').focus()")
    view.key("ArrowLeft")
    read = view.run("document.querySelector('.example .reading').textContent")
    assert read.startswith("truth: terrain · before adaptation: road · after adaptation: terrain")
    assert view.complaints() == []


def test_a_chart_is_enlarged_and_saved(page: tuple[Browser, Path]) -> None:
    view, path = page
    view.open(path)
    chart = "document.querySelector('.chart')"
    width = view.run(f"{chart}.getBoundingClientRect().width")
    view.run(f"{chart}.querySelector('.tools button').click()")
    assert view.run(f"{chart}.getBoundingClientRect().width") > 1.8 * width
    assert view.run(f"{chart}.querySelector('.tools button').textContent") == "Shrink"
    view.run("HTMLAnchorElement.prototype.click = function () { window.saved = this; }")
    view.run(f"{chart}.querySelectorAll('.tools button')[1].click()")
    assert view.run("window.saved.download") == "mIoU-on-target-val.csv"
    lines = view.run("decodeURIComponent(window.saved.href)").partition(",")[2].splitlines()
    assert lines[0] == 'run,step,"mIoU on target val"'
    assert lines[1:3] == ['"a",300,22.0', '"a",800,47.0']
    assert view.complaints() == []


def test_on_a_phone(page: tuple[Browser, Path]) -> None:
    """The contents stay in view, and a section of charts is no longer than the screen."""
    view, path = page
    view.open(path, 360)
    view.run("document.querySelector('#confusion').scrollIntoView({behavior: 'instant'})")
    box = (
        "(({top, height}) => [top, height])(document.querySelector('nav').getBoundingClientRect())"
    )
    top, height = view.run(box)
    assert top == 0
    assert height < 60
    assert view.run("document.querySelector('#curves').getBoundingClientRect().height") < 700
    matrix = "document.querySelector('.matrix').parentElement"
    assert view.run(f"{matrix}.scrollWidth > {matrix}.clientWidth")
    assert "gradient" in view.run(f"getComputedStyle({matrix}).backgroundImage")
