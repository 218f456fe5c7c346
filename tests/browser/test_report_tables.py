"""Tables and comparisons of the report in a real browser."""

import dataclasses
import json
import random

import pytest

from quantsam.cli.main import main
from quantsam.metrics.summary import ObjectScore
from quantsam.report.page import write_report
from quantsam.results.object_names import ObjectNames
from quantsam.results.objects import group_rows, object_rows, whole, worst_first
from quantsam.results.store import ResultStore

from ..unit.report.conftest import make_entry, make_record, make_row, make_study

LAYERS = 14
COLUMN = (
    "([table, n]) => [...document.querySelectorAll(table + ' tbody tr:not([hidden])')].map(r => r.cells[n].innerText)"
)
STUDY = "#nano--layers table"


def objects_of(seed, spread):
    """Scores of 300 objects, of counts of pixels as real ones are."""
    draw = random.Random(seed)
    common = random.Random(0)
    scores = []
    for number in range(300):
        area = common.choice((150, 400, 2000, 30_000))
        pixels = round(area * min(1.0, max(0.0, 0.8 + common.gauss(0, 0.1) + draw.gauss(0, spread))))
        scores.append(ObjectScore(1 + number // 3, 100 + number, float(area), pixels / area, None))
    return scores


@pytest.fixture
def made(tmp_path):
    """A store with three results of the same objects, with names, and a study; and its report."""
    store = ResultStore(tmp_path / "results.sqlite")
    records = {}
    for number, (scheme, spread) in enumerate((("fp32", 0.0), ("int8", 0.1), ("mix", 0.01))):
        scores = objects_of(number, spread)
        miou = 100 * sum(score.iou for score in scores) / len(scores)
        record = make_record(scheme, miou, 40.0 - 10 * number, id=f"{number}" * 32)
        store.append(record, scores)
        records[scheme] = dataclasses.replace(record, scores=tuple(scores))
    categories = {n: f"kind-{n}" for n in range(12)}
    objects = {100 + n: n % 12 for n in range(299)}  # the last one has none
    store.keep_names("cd", ObjectNames(categories, objects, {n: f"{n:04}.jpg" for n in range(1, 90)}))
    worst = worst_first(object_rows(store, records["mix"], records["fp32"]))[0]
    store.keep_gallery(records["mix"].id, [make_entry(annotation_id=worst.annotation_id, image_id=worst.image_id)])
    losses = [(7 * n) % LAYERS + 0.5 for n in range(LAYERS)]
    rows = [make_row(f"stage1:{n}:0", "conv", loss, mask_loss=10 * loss) for n, loss in enumerate(losses)]
    rows[3] = dataclasses.replace(rows[3], sqnr_db=None)
    store.append(make_study(rows))
    path = tmp_path / "report.html"
    write_report(path, store)
    return path, store, records


def opened(open_page, path, **options):
    page = open_page(path.as_uri(), **options)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    return page


def column(page, number, table=STUDY):
    return page.evaluate(COLUMN, [table, number])


def test_a_click_on_a_head_sorts_numbers_up_then_down_then_not(made, open_page):
    page = opened(open_page, made[0])
    head = page.locator(f"{STUDY} thead th").nth(2)
    as_listed = column(page, 2)
    assert head.get_attribute("aria-sort") == "none"
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(page, 2) == sorted(as_listed, key=float)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column(page, 2) == sorted(as_listed, key=float, reverse=True)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "none"
    assert column(page, 2) == as_listed


def test_heads_work_by_keyboard_and_empty_cells_come_last(made, open_page):
    page = opened(open_page, made[0])
    button = page.locator(f"{STUDY} thead th").nth(6).get_by_role("button")  # SQNR
    button.focus()
    for _ in range(2):
        page.keyboard.press("Enter")
        found = column(page, 6)
        assert found[-1] == ""
        assert "" not in found[:-1]


def test_names_sort_by_the_numbers_in_them(made, open_page):
    page = opened(open_page, made[0])
    page.locator(f"{STUDY} thead th").first.get_by_role("button").click()
    assert column(page, 0) == [f"stage1:{n}:0" for n in range(LAYERS)]


@pytest.mark.parametrize(("text", "number"), [
    ("-1.25 ± 0.30", -1.25),
    ("+0.01 ± 0.16", 0.01),
    ("\u22123.5", -3.5),  # a minus sign
    ("12.5 %", 12.5),
    ("1,234,567", 1234567),
    ("2 KiB", 2048),
    ("1.5 MiB", 1572864),
    ("20 ms", 0.02),
    ("2 s", 2),
    ("3 of 45", 3),
    ("-1.5e-05 … 2", -1.5e-05),
    ("< 0.1", 0.1),
    ("none", None),
    ("", None),
])  # fmt: skip
def test_what_a_number_is(made, open_page, text, number):
    page = open_page(made[0].as_uri())
    assert page.evaluate("text => quantsamReport.number(text)", text) == number


@pytest.mark.parametrize("width", [1280, 390])
def test_long_tables_have_a_filter_for_text_anywhere_in_a_row(made, open_page, width):
    page = opened(open_page, made[0], width=width)
    tools = page.locator("#nano--layers .tools")
    field = tools.get_by_role("searchbox", name="Filter")
    field.fill("STAGE1:1 conv")
    assert column(page, 0) == [row for row in column(page, 0) if "stage1:1" in row]
    assert len(column(page, 0)) == 5  # 1, 10, 11, 12, 13
    assert tools.get_by_role("status").inner_text() == f"5 of {LAYERS} rows"
    assert page.locator(f"{STUDY} tbody tr:visible").count() == 5
    field.fill("")
    assert page.locator(f"{STUDY} tbody tr:visible").count() == LAYERS
    assert not page.locator("#nano--schemes .tools .filter").first.is_visible()  # three rows
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_on_a_telephone_a_list_sorts_the_cards(made, open_page):
    page = opened(open_page, made[0], width=390)
    select = page.locator("#nano--layers .tools select")
    assert select.is_visible()
    select.select_option(label="mIoU lost ↓")
    found = [float(text) for text in column(page, 2)]
    assert found == sorted(found, reverse=True)
    select.select_option(label="as listed")
    assert page.locator(f"{STUDY} thead button").first.is_hidden()  # no tab stops out of sight


def test_without_a_script_tables_read_as_they_are(made, open_page):
    page = open_page(made[0].as_uri(), java_script_enabled=False)
    table = page.locator("#nano--schemes table").first
    assert table.locator("thead th").first.inner_text() == "scheme"
    assert page.locator(".tools, .sort").count() == 0
    assert page.locator(".pair").is_hidden()
    assert "int8, simulated less fp32, PyTorch" in page.locator(".compare .summary").inner_text()


def shown(page, part):
    return page.evaluate(
        "part => [...document.querySelectorAll(`[data-part='${part}'] tbody tr`)]"
        ".map(row => [...row.cells].map(cell => cell.textContent))",
        part,
    )


def choose(page, first, second):
    page.locator("[data-which=first]").select_option(label=first)
    page.locator("[data-which=second]").select_option(label=second)


def test_the_script_says_of_the_first_pair_what_the_page_said(made, open_page):
    page = opened(open_page, made[0])
    texts = "[document.querySelector('.summary').textContent, document.querySelector('.compare code').textContent]"
    before = [page.evaluate(texts), *(shown(page, part) for part in ("size", "category", "worst"))]
    choose(page, "int8, simulated", "mix, simulated")
    between = [page.evaluate(texts), *(shown(page, part) for part in ("size", "category", "worst"))]
    assert all(one != other for one, other in zip(before, between, strict=True))
    choose(page, "fp32, PyTorch", "int8, simulated")
    assert [page.evaluate(texts), *(shown(page, part) for part in ("size", "category", "worst"))] == before


@pytest.mark.parametrize(("first", "second"), [("fp32", "mix"), ("int8", "mix"), ("mix", "fp32")])
def test_any_two_results_compare_as_the_command_compares_them(made, open_page, capsys, first, second):
    path, store, records = made
    page = opened(open_page, path)
    names = {"fp32": "fp32, PyTorch", "int8": "int8, simulated", "mix": "mix, simulated"}
    choose(page, names[first], names[second])
    line = page.locator(".compare code").inner_text().split()
    assert line == ["quantsam", "results", "--compare", records[first].id[:8], records[second].id[:8]]
    assert main([*line[1:], "--by", "category", "--json", "--store", str(store.path)]) == 0
    told = json.loads(capsys.readouterr().out)
    rows = object_rows(store, records[second], records[first])
    everything = whole(rows)
    assert told["all"] == dataclasses.asdict(everything)
    assert page.locator(".summary").inner_text() == (
        f"{names[second]} less {names[first]}: {everything.difference:+.2f} ± {everything.difference_se:.2f} points of "
        f"mIoU over 300 objects. {everything.wins} objects are better, {everything.losses} worse, "
        f"{everything.ties} within 0.5 points."
    )
    assert min(everything.wins, everything.losses, everything.ties) > 0
    assert shown(page, "category") == [in_cells(group) for group in told["rows"]]
    assert shown(page, "size") == [in_cells(dataclasses.asdict(group)) for group in group_rows(rows, "size")]
    assert shown(page, "worst") == [
        [
            *(str(row.annotation_id), row.category or "", row.file or f"image {row.image_id}", row.size),
            *(f"{row.baseline_iou:.2f}", f"{row.iou:.2f}", f"{row.difference:+.2f}"),
        ]
        for row in worst_first(rows)[:10]
    ]


def in_cells(group):
    error = "" if group["difference_se"] is None else f" ± {group['difference_se']:.2f}"
    means = (f"{group['miou'] - group['difference']:.2f}", f"{group['miou']:.2f}")
    counts = (str(group[key]) for key in ("wins", "losses", "ties"))
    return [group["group"], str(group["objects"]), *means, f"{group['difference']:+.2f}{error}", *counts]


def test_pictures_of_the_worst_objects_are_shown_where_the_gallery_has_them(made, open_page):
    page = opened(open_page, made[0])
    assert page.locator("[data-part=pictures] .object").count() == 0  # the gallery is of another result
    choose(page, "fp32, PyTorch", "mix, simulated")
    copy = page.locator("[data-part=pictures] .object")
    assert copy.count() == 1
    assert copy.locator(".stage").count() == 4
    worst = page.locator("[data-part=worst] tbody th").first.inner_text()
    assert f"object {worst} of" in copy.locator("figcaption").inner_text()
    assert copy.locator(".stage").first.evaluate("e => getComputedStyle(e).backgroundImage").startswith('url("data:')


def test_other_rows_keep_the_order_and_the_filter_that_the_reader_chose(made, open_page):
    page = opened(open_page, made[0])
    table = "[data-part=category]"
    page.locator(f"{table} thead th").nth(4).get_by_role("button").click()
    page.locator(".categories input").fill("kind-1")
    choose(page, "int8, simulated", "mix, simulated")
    changes = [float(text.split()[0]) for text in column(page, 4, table)]
    assert len(changes) == 3  # 1, 10, 11
    assert changes == sorted(changes)


def test_a_comparison_fits_a_telephone(made, open_page):
    page = opened(open_page, made[0], width=390)
    choose(page, "int8, simulated", "mix, simulated")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for select in page.locator(".pair select").all():
        box = select.bounding_box()
        assert box["x"] + box["width"] <= 390
