"""The report in a real browser."""

import re

import numpy as np
import pytest

from quantsam.data.coco_masks import encode_mask
from quantsam.report.page import make_report, write_report
from quantsam.results.layer_formats import LayerFormat
from quantsam.results.object_names import ObjectNames
from quantsam.results.store import ResultStore

from ..unit.report.conftest import (
    fill,  # noqa: F401  # a fixture
    make_distributions,
    make_entry,
    make_record,
    make_row,
    make_scores,
    make_site,
    make_study,
)

MARKS = """name => {
  const svg = document.querySelector(`[data-chart="${name}"] svg`);
  const shapes = '.mark-rect path, .mark-symbol path';
  return [...svg.querySelectorAll(shapes)].filter(p => !p.closest('.role-legend') && p.ariaLabel).length;
}"""


@pytest.fixture
def report(tmp_path, fill):  # noqa: F811
    store = ResultStore(tmp_path / "results.sqlite")
    fill(store)
    path = tmp_path / "report.html"
    return path, write_report(path, store)


def opened(open_page, path, **options):
    page = open_page(path.as_uri(), **options)
    page.evaluate("quantsamReport.drawAll()")
    return page


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_charts_show_the_right_number_of_marks(report, open_page, width, dark):
    path, made = report
    page = opened(open_page, path, width=width, dark=dark)
    assert {c.name: page.evaluate(MARKS, c.name) for c in made.charts} == {c.name: c.marks for c in made.charts}
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for chart in made.charts:
        box = page.locator(f'[data-chart="{chart.name}"] svg').first.bounding_box()
        assert box["x"] + box["width"] <= width
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert (brightness(ink) > brightness(paper)) == dark
    label = page.locator(".plot svg text").first.evaluate("e => getComputedStyle(e).fill")
    assert label == ink


def brightness(colour):
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


def test_hovering_over_a_layer_names_it(report, open_page):
    path, made = report
    page = opened(open_page, path)
    name = next(c.name for c in made.charts if "--layers-" in c.name)
    bar = page.locator(f'[data-chart="{name}"] .mark-rect path').nth(1)
    bar.scroll_into_view_if_needed()
    bar.hover()
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert "stage1:0:1" in tooltip.inner_text()
    assert "mbc_depthwise" in tooltip.inner_text()


def test_a_chart_zooms_with_ctrl_and_wheel_and_the_wheel_alone_scrolls(report, open_page):
    path, made = report
    page = opened(open_page, path)
    name = next(c.name for c in made.charts if "--layers-" in c.name)
    plot = page.locator(f'[data-chart="{name}"]')
    plot.scroll_into_view_if_needed()
    width = "n => document.querySelector(`[data-chart='${n}'] .mark-rect path`).getBBox().width"
    before = page.evaluate(width, name)
    plot.hover(position={"x": 300, "y": 100})
    page.mouse.wheel(0, 40)
    page.wait_for_timeout(200)
    assert page.evaluate(width, name) == pytest.approx(before)
    plot.scroll_into_view_if_needed()
    plot.hover(position={"x": 300, "y": 100})
    page.keyboard.down("Control")
    page.mouse.wheel(0, -200)
    page.keyboard.up("Control")
    page.wait_for_function("([f, n, w]) => eval(f)(n) > 1.05 * w", arg=[width, name, before])


def test_buttons_zoom_by_keyboard_and_show_all_again(report, open_page):
    path, made = report
    page = opened(open_page, path)
    name = next(c.name for c in made.charts if "--layers-" in c.name)
    width = f"document.querySelector('[data-chart=\"{name}\"] .mark-rect path').getBBox().width"
    before = page.evaluate(width)
    page.get_by_role("button", name="Zoom into Points of mIoU lost").focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"{width} > 1.5 * {before}")
    page.get_by_role("button", name="Show all of Points of mIoU lost").focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"Math.abs({width} - {before}) < 0.5")


def test_a_chart_can_be_saved(report, open_page):
    path, made = report
    page = opened(open_page, path, accept_downloads=True)
    with page.expect_download() as waiting:
        page.get_by_role("button", name=f"Save {made.charts[0].title} as SVG").first.click()
    assert waiting.value.suggested_filename == f"{made.charts[0].name}.svg"
    assert waiting.value.path().read_text("utf-8").startswith("<svg")


def test_a_click_on_a_kind_singles_it_out(report, open_page):
    path, made = report
    page = opened(open_page, path)
    name = next(c.name for c in made.charts if "--layers-" in c.name)
    page.locator(f'[data-chart="{name}"] .role-legend-label text', has_text="mbc_depthwise").click()
    opacity = (
        "n => [...document.querySelectorAll(`[data-chart='${n}'] .mark-rect path`)].map(p => p.getAttribute('opacity'))"
    )
    page.wait_for_function(f"n => ({opacity})(n)[0] === '0.15'", arg=name)
    assert page.evaluate(opacity, name)[1] in (None, "1")


def test_a_chosen_site_is_shown_in_both_charts_by_keyboard_alone(report, open_page):
    path, made = report
    page = opened(open_page, path)
    histogram = next(c for c in made.charts if c.name.endswith("-histogram"))
    select = page.locator("select[data-chosen]")
    select.focus()
    page.keyboard.press("ArrowDown")
    chosen = list(histogram.choices)[1]
    assert select.input_value() == chosen
    shown = "([n, v]) => quantsamReport.view(n).then(view => view.signal('chosen') === v)"
    for name in (histogram.name, histogram.name.replace("histogram", "channels")):
        page.wait_for_function(shown, arg=[name, chosen])
    assert page.evaluate(MARKS, histogram.name) == 6


def test_a_chosen_scheme_colours_the_layers_by_its_formats(tmp_path, open_page):
    store = ResultStore(tmp_path / "results.sqlite")
    for scheme, bits in (("int8", "int8"), ("mixed", None)):
        layers = [LayerFormat(f"stage{n}:0:0", "conv", "int8" if n else bits, "uint8" if n else bits) for n in range(3)]
        store.append(make_record(scheme, results={"layers": [layer.to_json() for layer in layers]}))
    path = tmp_path / "report.html"
    write_report(path, store)
    page = opened(open_page, path)
    cells = "document.querySelectorAll('[data-chart$=encoder-layers] .mark-rect path')"
    colours = f"[...{cells}].map(cell => cell.getAttribute('fill'))"
    page.wait_for_function(f"{cells}.length === 3")
    assert page.evaluate(colours) == ["#0072b2"] * 3
    page.locator("select[data-chosen]").select_option(label="mixed")
    page.wait_for_function(f"{colours}[0] === '#c3c9d1'")
    assert page.evaluate(colours)[1:] == ["#0072b2"] * 2


def test_masks_lie_over_their_picture(report, open_page):
    path, _ = report
    page = opened(open_page, path)
    stages = page.locator(".gallery[open] .object").first.locator(".stage")
    assert stages.count() == 4
    pictures = {stages.nth(i).evaluate("e => getComputedStyle(e).backgroundImage.slice(0, 21)") for i in range(4)}
    assert pictures == {'url("data:image/jpeg;'}
    overlay = stages.nth(3).locator("img")
    assert overlay.evaluate("e => [e.complete, e.naturalWidth]") == [True, 8]
    assert "12 pixels" in stages.nth(1).locator("xpath=../..").get_attribute("aria-label")


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_activations_are_small_squares_in_one_row(report, open_page, width, dark):
    path, _ = report
    page = opened(open_page, path, width=width, dark=dark)
    channel = page.locator(".channel")
    assert channel.count() == 1
    maps = channel.locator("img")
    sizes = [maps.nth(n).evaluate("e => [e.complete, e.naturalWidth, e.naturalHeight]") for n in range(3)]
    assert sizes == [[True, 2, 1]] * 3
    boxes = [maps.nth(n).bounding_box() for n in range(3)] + [channel.locator("svg").bounding_box()]
    assert len({round(box["y"]) for box in boxes}) == 1
    assert all(box["width"] == pytest.approx(box["height"], abs=1) and box["width"] > 60 for box in boxes)
    assert all(box["x"] + box["width"] <= width for box in boxes)
    assert channel.locator("path").evaluate("e => getComputedStyle(e).fill") == "rgb(0, 114, 178)"
    assert channel.locator("polyline").evaluate("e => getComputedStyle(e).stroke") == "rgb(213, 94, 0)"
    back = brightness(maps.nth(2).evaluate("e => getComputedStyle(e).backgroundColor"))  # what zero is shown in
    assert (back < 200) == dark


def test_the_report_needs_no_network(report, open_page):
    path, made = report
    page = opened(open_page, path, offline=True)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    page.evaluate("quantsamReport.drawAll()")
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert page.locator(".plot svg.marks").count() == len(made.charts)


def test_it_prints_on_white(report, open_page):
    path, _ = report
    page = opened(open_page, path, dark=True)
    page.emulate_media(media="print")
    assert brightness(page.evaluate("getComputedStyle(document.body).color")) == 0
    assert page.locator("select").first.is_hidden()


def test_hostile_names_are_shown_as_text(tmp_path, open_page):
    hostile = "</script></style><script>alert(1)</script><img src=x onerror=alert(1)>\"'{{7*7}}"
    store = ResultStore(tmp_path / "results.sqlite")
    common = {"model": hostile, "dataset": hostile, "environment": {"cpu": hostile}}
    store.append(make_record("fp32", 80.0, 40.0, **common), make_scores([0.5]))
    store.append(quantized := make_record(hostile, 70.0, **common), make_scores([0.4]))
    store.keep_gallery(quantized.id, [make_entry()])
    store.keep_names("cd", ObjectNames({1: hostile}, {0: 1, 17: 1}, {1: hostile, 5: hostile}))
    store.append(make_study([make_row(hostile, hostile, 3.0)], scheme=hostile, model=hostile))
    store.append(make_distributions([make_site(hostile, kind=hostile), make_site()], model=hostile))
    path = tmp_path / "report.html"
    path.write_text(make_report(store).html, "utf-8")
    page = open_page(path.as_uri())
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.evaluate("quantsamReport.drawAll()")
    bar = page.locator('[data-chart*="--layers-"] .mark-rect path').first
    bar.scroll_into_view_if_needed()
    bar.hover()
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert "onerror=alert(1)" in tooltip.inner_text()
    page.locator("[data-which=first]").select_option(index=1)  # the script writes the tables anew
    page.locator("[data-which=second]").select_option(index=0)
    assert hostile in page.locator("[data-part=worst] tbody tr").first.text_content()
    assert page.locator("img[src='x']").count() == 0
    assert hostile in page.locator("h2").first.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert dialogs == []


def test_charts_are_drawn_without_scrolling(report, open_page):
    """A picture of the whole page is taken without it."""
    path, made = report
    page = open_page(path.as_uri())
    drawn = f"document.querySelectorAll('[data-chart] svg').length >= {len(made.charts)}"
    page.wait_for_function(drawn, timeout=20_000)
    assert page.evaluate("scrollY") == 0


def test_on_a_telephone_every_column_is_in_sight(report, open_page):
    path, _ = report
    page = opened(open_page, path, width=390)
    verdicts = page.locator("td[data-label='verdict']")
    assert verdicts.count() > 1
    for cell in verdicts.all():
        box = cell.bounding_box()
        assert box is None or box["x"] + box["width"] <= 390
    assert page.locator("td[data-label='verdict']").first.evaluate("e => getComputedStyle(e, '::before').content") == (
        '"verdict"'
    )


def test_portrait_and_landscape_take_the_same_room(tmp_path, open_page):
    store = ResultStore(tmp_path / "results.sqlite")
    store.append(make_record("fp32", 80.0, 40.0), make_scores([0.5]))
    store.append(quantized := make_record("int8", 70.0), make_scores([0.4]))
    mask = np.zeros((24, 8), bool)
    mask[2:9, 1:6] = True
    masks = dict.fromkeys(("truth", "fp32", "quantized"), encode_mask(mask))
    portrait = make_entry(annotation_id=99, image_hw=(24, 8), box_xyxy=(1.0, 2.0, 6.0, 9.0), **masks)
    store.keep_gallery(quantized.id, [make_entry(), portrait])
    path = tmp_path / "report.html"
    write_report(path, store)
    page = opened(open_page, path)
    views = page.locator(".gallery[open] .view")
    heights = {round(views.nth(index).bounding_box()["height"]) for index in range(views.count())}
    assert views.count() == 8
    assert len(heights) == 1
    for frame in page.locator(".gallery[open] .frame").all():
        outer = frame.locator("xpath=..").bounding_box()
        inner = frame.bounding_box()
        assert inner["height"] <= outer["height"] + 1
        assert inner["width"] <= outer["width"] + 1


def test_names_in_charts_lie_on_nothing_and_are_whole(tmp_path, open_page):
    store = ResultStore(tmp_path / "results.sqlite")
    store.append(make_record("fp32", 80.0, 40.0), make_scores([0.5]))
    for number, size in enumerate((39.0, 39.1, 39.2, 20.0, 20.1, 0.1)):
        store.append(make_record(f"a-scheme-of-a-long-name-{number}", 79.9 - number / 100, size), make_scores([0.4]))
    path = tmp_path / "report.html"
    write_report(path, store)
    page = opened(open_page, path)
    found = page.evaluate(
        """() => [...document.querySelectorAll('[data-chart$="size"] svg')].map(svg => {
          const edge = svg.getBoundingClientRect();
          const names = [...svg.querySelectorAll('.mark-text text')].filter(e => e.textContent.includes('scheme'));
          const boxes = names.map(e => e.getBoundingClientRect());
          return [[edge.left, edge.right], boxes.map(b => [b.left, b.top, b.right, b.bottom])];
        })"""
    )
    ((left, right), boxes), *_ = found
    assert len(boxes) >= 3
    for index, a in enumerate(boxes):
        assert left <= a[0]
        assert a[2] <= right
        for b in boxes[:index]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] + 2 or b[3] <= a[1] + 2, (a, b)
