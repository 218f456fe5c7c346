"""What a repair changed, side by side: which records belong together, tables, chart and masks."""

import json

from quantsam.report.before_after import layer_pairs, repaired_layers_table, repaired_sites_table, twins
from quantsam.report.charts.repaired import repaired_layers_chart
from quantsam.report.content import read_content
from quantsam.report.galleries import Pictures
from quantsam.report.sections import make_sections

from .conftest import make_distributions, make_entry, make_record, make_row, make_scores, make_site, make_study

REPAIRED = {"repairs": ["streams", "migrate"]}


def studies():
    rows = [make_row("stage1:0:0", "conv", 0.1, mask_loss=1.0), make_row("stage1:0:1", "fmbc", 6.0, mask_loss=30.0)]
    after = [make_row("stage1:0:0", "conv", 0.1, mask_loss=0.9), make_row("stage1:0:1", "fmbc", 0.0, mask_loss=1.5)]
    return make_study(rows, plan_digest="ab"), make_study(after, plan_digest="cd", settings=REPAIRED)


def test_what_differs_in_repairs_alone_belongs_together():
    before, after = studies()
    elsewhere = make_study([], settings=REPAIRED, placement="openvino")
    other, older = make_study([], settings={"repairs": ["streams"]}), make_study([], settings=REPAIRED)
    assert twins([elsewhere, after, other, older, before]) == [(before, after), (before, other)]
    assert twins([before]) == twins([after]) == []


def test_layers_before_and_after_the_worst_first():
    pair = studies()
    assert [old.name for old, _ in layer_pairs(*pair)] == ["stage1:0:1", "stage1:0:0"]
    table = repaired_layers_table(*pair)
    assert table.rows[0].cells[:6] == ("stage1:0:1", "fmbc", "30.00", "0.20", "1.50", "0.20")
    assert table.title.endswith("after streams, migrate")
    chart = repaired_layers_chart("chart", layer_pairs(*pair))
    assert chart.marks == 4
    assert [row["loss"] for row in chart.spec["datasets"]["points"]] == [30.0, 1.5, 1.0, 0.9]
    assert repaired_layers_chart("none", []) is None


def test_sites_before_and_after_the_hardest_first():
    before = make_distributions([make_site("a", 4.0), make_site("b", 2.0, position_ratio=90.0)])
    repaired = [make_site("a", 2.0), make_site("b", 2.0, position_ratio=3.0), make_site("c", 99.0)]
    table = repaired_sites_table(before, make_distributions(repaired, settings=REPAIRED))
    assert [row.cells[0] for row in table.rows] == ["b", "a"]
    assert table.rows[0].cells[2:6] == ("2.0", "2.0", "90.0", "3.0")


def test_the_page_shows_both_and_the_repaired_mask_beside_the_other(store):
    before, after = (
        make_record("int8", 50.0, plan_digest="ab"),
        make_record("int8", 79.0, plan_digest="cd", settings=REPAIRED),
    )
    records = [make_record("fp32", 80.0, 40.0), before, after]
    for record in records:
        store.append(record, make_scores([0.5, 0.6]))
    store.keep_gallery(records[1].id, [make_entry()])
    store.keep_gallery(records[2].id, [make_entry(iou=0.95)])
    for record in studies():
        store.append(record)
    (section,) = make_sections(read_content(store), Pictures())
    titles = {
        gallery.title.partition(" (")[0]: [p.title for p in gallery.groups[0].objects[0].panels]
        for gallery in section.galleries
    }
    assert sorted(titles) == ["int8", "int8 + streams + migrate"]
    assert titles["int8"] == ["image and prompt", "ground truth", "FP32", "int8", "repaired"]
    assert titles["int8 + streams + migrate"][3:] == ["int8 + streams + migrate"]
    first = section.galleries[0]  # what was repaired comes first
    assert first.groups[0].objects[0].caption.endswith("-40 points of IoU, -5 repaired")
    (part,) = [part for part in section.parts if part.title == "Before and after repair"]
    assert len(part.blocks) == 1
    assert json.dumps(part.blocks[0].charts[0].spec)
