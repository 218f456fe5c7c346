import dataclasses
import json
import re
import sqlite3
from html import unescape

import pytest

from quantsam.errors import OutputError, StoreError
from quantsam.report.figures import check_folder, write_figures
from quantsam.report.page import make_report, write_report
from quantsam.results.object_names import ObjectNames

from .conftest import make_distributions, make_entry, make_record, make_row, make_scores, make_site, make_study

HOSTILE = "</script></style><script>alert(1)</script><img src=x onerror=alert(1)>\"'{{7*7}}\u2028${1}"


def specs(html):
    found = re.findall(r'<script type="application/json" id="spec-([^"]+)">(.*?)</script>', html, re.DOTALL)
    return {name: json.loads(text) for name, text in found}


def test_a_report_shows_each_part(store, fill):
    fill(store)
    report = make_report(store)
    assert "What quantization does to nano" in report.html
    for part in (
        "Schemes compared",
        "Masks, before and after",
        "Which layers hurt",
        "Found by search",
        "Before and after repair",
    ):
        assert f"<h3>{part}</h3>" in report.html
    for part in ("Simulation against engine", "How values are distributed", "The encoder, layer by layer"):
        assert f"<h3>{part}</h3>" in report.html
    assert "<h3>Activations of an image</h3>" in report.html
    assert (report.shown, report.missing_pictures) == (11, 0)
    assert {*specs(report.html)} == {chart.name for chart in report.charts}
    assert len(report.charts) == 10
    assert len(set(re.findall(r' id="([^"]+)"', report.html))) == len(re.findall(r' id="([^"]+)"', report.html))


def tables(html):
    """Each table with what stands behind it, up to the next one."""
    return html[: html.index("<script>")].split("<table")[1:]


def test_whatever_has_an_error_says_of_which_kind(store, fill):
    fill(store)
    store.append(make_record("fp32", 60.0, model="L0"))  # so that there is a table of models
    store.append(make_record("int8", 50.0, model="L0"))
    report = make_report(store)
    with_errors = [table for table in tables(report.html) if "±" in table.partition("</table>")[0]]
    assert len(with_errors) >= 6
    for table in with_errors:
        assert "one standard error" in table.partition("</table>")[2].partition("</p>")[0], table[:200]
    for chart in report.charts:
        rows = chart.spec["datasets"].get("rows", [])
        if any(row.get("low") is not None and row.get("high") is not None and "spread" in row for row in rows):
            assert "95 % interval" in chart.reading


def test_the_gallery_calls_objects_by_category_and_image(store, fill):
    fill(store)
    assert "object 17 of image 5: -40 points" in make_report(store).html
    store.keep_names("cd", ObjectNames({3: "<zebra>"}, {17: 3, 18: 3}, {5: "a/<b>.jpg"}))
    html = make_report(store).html
    assert "&lt;zebra&gt;, object 17 of a/&lt;b&gt;.jpg: -40 points" in html
    assert "<zebra>" not in html


def test_studies_of_a_search_are_behind_one_line(store):
    rows = [make_row("stage1:0:0", "conv", 1.0)]
    store.append(make_study(rows, scheme="int8"))
    for scheme in ("w4a8", "w8a16"):
        store.append(make_study(rows, scheme=scheme, plan_digest=scheme, settings={"search": "size"}))
    html = make_report(store).html
    own, line, rest = html.partition("<summary>2 studies that a search measured for its own use</summary>")
    assert line
    assert "Points of mIoU lost: int8" in own
    assert "Points of mIoU lost: w4a8" not in own
    assert "Points of mIoU lost: w4a8" in rest
    assert "Points of mIoU lost: w8a16" in rest
    assert html.count("<details") == html.count("</details>")


def test_without_a_script_the_pair_that_is_shown_first_can_be_read(store, fill):
    fill(store)
    html = make_report(store).html
    assert "int8, simulated less fp32, PyTorch: -10.00 ± 20.41 points of mIoU over 4 objects." in html
    assert '<div class="pair" hidden>' in html
    assert html.count('id="data-nano--1-objects"') == 1
    assert "nano--1-objects" not in make_report(store, {"scheme": "int8"}).html  # one result with scores


def test_every_place_of_a_chart_has_its_specification(store, fill):
    fill(store)
    html = make_report(store).html
    assert sorted(re.findall(r'<div class="plot" data-chart="([^"]+)"', html)) == sorted(specs(html))


def test_it_asks_no_other_machine(store, fill):
    fill(store)
    html = make_report(store).html
    page = html[: html.index("<script>")]  # what follows is Vega's own text, which names schemas
    links = re.findall(r"""(?:src|href)=["']([^"']*)""", page)
    assert links
    assert [link for link in links if not link.startswith(("#", "data:"))] == []
    assert "url(http" not in page
    assert "@import" not in page
    assert "default-src 'none'" in unescape(page)


def test_every_link_leads_to_a_place_of_the_page(store, fill):
    fill(store)
    html = make_report(store).html
    page = html[: html.index("<script>")]
    links = re.findall(r'href="#([^"]+)"', page)
    assert len(links) > 5
    assert set(links) <= set(re.findall(r' id="([^"]+)"', page))


def test_hostile_text_is_escaped_everywhere(store):
    changes = {"dataset": HOSTILE, "calibration": HOSTILE, "environment": {"cpu": HOSTILE, "torch": HOSTILE}}
    store.append(make_record("fp32", 80.0, model=HOSTILE, **changes), make_scores([0.5]))
    quantized = make_record(HOSTILE, 70.0, model=HOSTILE, **changes)
    store.append(quantized, make_scores([0.4]))
    store.keep_gallery(quantized.id, [make_entry()])
    store.keep_names("cd", ObjectNames({1: HOSTILE}, {0: 1, 17: 1}, {1: HOSTILE, 5: HOSTILE}))
    store.append(make_study([make_row(HOSTILE, HOSTILE, 3.0)], scheme=HOSTILE, model=HOSTILE))
    store.append(make_distributions([make_site(HOSTILE, kind=HOSTILE)], model=HOSTILE))
    html = make_report(store).html
    assert "<img src=x" not in html
    assert "<script>alert" not in html
    assert "49$" not in html
    assert html.count("<script>") == 2  # Vega and ours
    assert any(HOSTILE in json.dumps(spec, ensure_ascii=False).replace('\\"', '"') for spec in specs(html).values())


def test_a_missing_picture_leaves_the_masks(store, fill):
    fill(store)
    with sqlite3.connect(store.path) as connection:
        connection.execute("DELETE FROM pictures")
    report = make_report(store)
    assert report.missing_pictures == 2
    assert report.html.count("image missing in the store") == 2
    assert report.html.count("data:image/png;base64") == 6 + 3  # masks, and maps of a channel


def test_a_picture_is_carried_once(store, fill):
    fill(store)
    assert make_report(store).html.count("data:image/jpeg;base64") == 1


def test_a_damaged_gallery_is_a_store_error(store, fill):
    records = fill(store)
    store.keep_gallery(records["int8"].id, [make_entry(truth={"size": [6, 8], "counts": "\x00"})])
    with pytest.raises(StoreError, match="annotation 17"):
        make_report(store)


def test_several_models_are_sections_that_can_be_told_apart(store):
    for model, digest in (("nano", "aaaaaaaa1"), ("nano", "bbbbbbbb2"), ("L0", "cc")):
        store.append(make_record("fp32", 80.0, model=model, weights_digest=digest))
        store.append(make_record("int8", 70.0, model=model, weights_digest=digest))
    html = make_report(store).html
    assert html.count('class="model"') == 3
    for title in ("nano, weights aaaaaaaa", "nano, weights bbbbbbbb", "<h2>L0</h2>"):
        assert title in html


def test_a_report_is_written_whole_or_not_at_all(store, fill, tmp_path):
    fill(store)
    write_report(tmp_path / "report.html", store)
    assert (tmp_path / "report.html").read_text("utf-8").endswith("</html>")
    with pytest.raises(OutputError, match="no folder"):
        write_report(tmp_path / "absent" / "report.html", store)


def test_figures_are_files_of_three_kinds(store, fill, tmp_path):
    fill(store)
    charts = make_report(store).charts[:2]
    check_folder(tmp_path / "new" / "figures")
    assert not (tmp_path / "new").exists()
    written = write_figures(charts, tmp_path / "new" / "figures")
    assert {p.name for p in written} == {f"{c.name}.{s}" for c in charts for s in ("svg", "png", "pdf")}
    begins = {"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF"}
    assert all(p.read_bytes().startswith(begins[p.suffix[1:]]) for p in written)
    assert 'fill="white"' in written[0].read_text()


def test_a_folder_that_figures_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="figures"):
        check_folder(tmp_path / "file" / "figures")


def test_places_of_models_with_like_names_do_not_collide(store):
    for model, digest in (("a", "1"), ("a", "2"), ("a-2", "3"), ("A!", "4"), ("<>", "5")):
        store.append(make_record(model=model, weights_digest=digest))
    report = make_report(store)
    ids = re.findall(r' id="([^"]+)"', report.html)
    assert len(ids) == len(set(ids))
    assert len({chart.name for chart in report.charts}) == len(report.charts) == 5


def test_several_models_are_compared_at_a_glance(store, fill):
    fill(store)
    assert "At a glance" not in make_report(store).html
    store.append(make_record("fp32", 60.0, model="L0"))
    assert "At a glance" in make_report(store).html


def test_every_machine_is_named(store):
    for cpu in ("First CPU", "Second CPU"):
        store.append(make_record(cpu, environment={"cpu": cpu, "cpu_count": "2"}))
    assert "measured on First CPU, 2 processors; Second CPU, 2 processors" in make_report(store).html


@pytest.mark.parametrize("damage", [
    {"low": "x"},
    {"channel_lows": []},
    {"channel_highs": [1.0]},
    {"outlier_ratio": "a"},
    {"bins": {"start": 0.0, "width": 0.0, "counts": [1]}},
    {"bins": {"start": 0.0, "width": 1.0, "counts": ["1"]}},
])  # fmt: skip
def test_damaged_distributions_are_store_errors(store, damage):
    record = make_distributions([make_site()])
    store.append(dataclasses.replace(record, results={"sites": [{**record.results["sites"][0], **damage}]}))
    with pytest.raises(StoreError, match="damaged"):
        make_report(store)


@pytest.mark.parametrize("damage", [{"drop": "x"}, {"kind": 3}, {"images": 1.5}, {"layers": [1]}])
def test_damaged_studies_are_store_errors(store, damage):
    record = make_study([make_row("a:0:0", "conv", 1.0)])
    store.append(dataclasses.replace(record, results={"rows": [{**record.results["rows"][0], **damage}]}))
    with pytest.raises(StoreError, match="damaged"):
        make_report(store)
