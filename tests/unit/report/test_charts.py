import json

import pytest
import vl_convert

from quantsam.errors import StoreError
from quantsam.report.charts.agreement import agreement_chart
from quantsam.report.charts.calibration import calibration_chart
from quantsam.report.charts.front import front_chart
from quantsam.report.charts.histograms import channels_chart, histogram_chart
from quantsam.report.charts.sensitivity import sensitivity_charts
from quantsam.report.charts.trade_off import latency_chart, size_chart
from quantsam.report.content import read_content

from .conftest import make_agreement, make_record, make_row, make_search, make_site, make_study


def task_of(store):
    return read_content(store).models[0].tasks[0]


def drawn(chart):
    """Draw a chart and return its marks' kinds as the SVG names them."""
    return vl_convert.vegalite_to_svg(dict(chart.spec))


def marks(svg, kind):
    """Count the marks of a kind in an SVG: `symbol`, `rect`, `rule`; those of legends are not data."""
    data = svg.split("role-legend")[0]
    return sum(part.split(" role-mark")[0].count("<path") for part in data.split(f"mark-{kind} role-mark")[1:])


def test_size_chart_has_a_point_for_each_result(store, fill):
    fill(store)
    chart = size_chart("nano-size", "nano", task_of(store))
    assert chart.marks == len(chart.spec["datasets"]["rows"]) == 4  # of FP32 one
    assert marks(drawn(chart), "symbol") == 4
    assert chart.spec["datasets"]["half"] == [{"x": 20.0, "name": "FP16"}]
    assert [row["score"] for row in chart.spec["datasets"]["front"]] == [70.5, 79.0, 80.0]


def test_calibration_chart_has_a_point_for_each_calibration_and_their_means(store):
    store.append(make_record("fp32", 80.0, 40.0))
    assert calibration_chart("n", task_of(store)) is None
    for number, (images, miou) in enumerate([(1, 60.0), (1, 64.0), (4, 70.0), (4, 71.0), (16, 72.0)]):
        settings = {"calibration_images": images}
        store.append(make_record("int8", miou, plan_digest=f"{number}", placement="thesis", settings=settings))
    store.append(make_record("w4a8", 50.0, plan_digest="w", placement="thesis", settings={"calibration_images": 4}))
    chart = calibration_chart("n", task_of(store))
    assert chart.marks == 5  # one number of images alone is no line
    data = chart.spec["datasets"]
    assert sorted((row["images"], row["score"]) for row in data["rows"]) == [
        (1, 60.0), (1, 64.0), (4, 70.0), (4, 71.0), (16, 72.0),
    ]  # fmt: skip
    assert [(row["images"], row["low"], row["score"], row["high"]) for row in data["means"]] == [
        (1, 60.0, 62.0, 64.0), (4, 70.0, 70.5, 71.0), (16, 72.0, 72.0, 72.0),
    ]  # fmt: skip
    assert data["fp32"][0]["score"] == 80.0
    assert marks(drawn(chart), "symbol") == 5


def test_a_result_without_a_size_has_no_place_in_it(store):
    store.append(make_record(figures={"miou": 70.0}))
    assert size_chart("n", "nano", task_of(store)) is None


@pytest.mark.parametrize(("model", "dataset", "prompt", "count"), [
    ("l0", "coco:val2017", "box", 4),
    ("L0", "coco:val2017[200:0]", "box", 4),
    ("l0", "coco:val2017", "click", 0),
    ("l0", "toy", "box", 0),
    ("nano", "coco:val2017", "box", 0),
])  # fmt: skip
def test_the_thesis_is_shown_beside_the_official_models_on_its_own_data(store, model, dataset, prompt, count):
    store.append(make_record(model=model, dataset=dataset, prompt=prompt))
    chart = size_chart("n", model, task_of(store))
    published = [row for row in chart.spec["datasets"]["rows"] if row["way"] == "published"]
    assert len(published) == count
    assert chart.marks == 1 + count
    if count:
        assert {"scheme": "int8", "x": pytest.approx(20 - 29.28), "score": 38.6}.items() <= published[1].items()
        assert "thesis" in chart.reading


def test_latency_chart_shows_engines_and_their_fp32(store, fill):
    fill(store)
    chart = latency_chart("n", task_of(store))
    assert [(row["scheme"], row["way"], row["x"]) for row in chart.spec["datasets"]["rows"]] == [
        *(("fp32", "openvino", 8.0), ("int8", "openvino", 4.0))
    ]
    assert "Some CPU" in chart.reading


def test_without_an_engine_there_is_no_latency_chart(store):
    store.append(make_record("fp32", times={"encoder_ms_median": 5.0}))
    store.append(make_record("int8", times={"encoder_ms_median": 5.0}))
    assert latency_chart("n", task_of(store)) is None


def test_differences_of_a_tenth_do_not_fill_the_chart(store):
    store.append(make_record("fp32", 80.0, 40.0))
    store.append(make_record("int8", 79.9, 10.0))
    spec = size_chart("n", "nano", task_of(store)).spec
    domains = [
        layer["encoding"]["y"]["scale"]["domain"]
        for layer in spec["layer"]
        if "scale" in layer["encoding"].get("y", {})
    ]
    assert domains
    assert all(high - low >= 2 for low, high in domains)


def sensitivity_chart(name, record):
    """The first chart of a study."""
    return sensitivity_charts(name, record)[0]


def test_sensitivity_has_a_bar_a_layer_coloured_by_kind():
    rows = [
        make_row("stage1:0:0", "conv", 0.5),
        make_row("stage1:0:1", "mbc_depthwise", 6.0),
        make_row("x:0:0", "new", 1.0),
    ]
    chart = sensitivity_chart("n", make_study(rows))
    assert chart.marks == 3
    svg = drawn(chart)
    assert marks(svg, "rect") == 3
    assert "#d55e00" in svg  # depthwise
    assert [row["value"] for row in chart.spec["datasets"]["rows"]] == [0.5, 6.0, 1.0]
    assert "stage1:0:1" in svg  # on the axis, by the row's number


def test_a_study_is_drawn_by_loss_of_miou_by_loss_of_masks_and_by_sqnr_in_the_order_of_the_forward_pass():
    rows = [
        make_row("stage1:0:0", "conv", 0.5, mask_loss=3.0, mask_loss_se=0.5, sqnr_db=12.0),
        make_row("neck:0:0", "neck_in", 2.0, mask_loss=1.0, mask_loss_se=None, sqnr_db=None),
    ]
    drop, masks, sqnr = sensitivity_charts("n", make_study(rows))
    assert [chart.name for chart in (drop, masks, sqnr)] == ["n", "n-masks", "n-sqnr"]
    for chart, values in ((drop, [0.5, 2.0]), (masks, [3.0, 1.0]), (sqnr, [12.0, None])):
        shown = chart.spec["datasets"]["rows"]
        assert [(row["unit"], row["value"]) for row in shown] == [*zip(("stage1:0:0", "neck:0:0"), values, strict=True)]
        assert chart.marks == marks(drawn(chart), "rect") == sum(value is not None for value in values)
    first, second = masks.spec["datasets"]["rows"]
    assert (first["low"], first["high"]) == (3 - 1.96 * 0.5, 3 + 1.96 * 0.5)
    assert second["low"] is None  # one object has no standard error
    for chart in (drop, masks):
        assert "Lines: 95 % interval" in chart.reading
    assert "Lines" not in sqnr.reading


def test_a_study_without_masks_is_drawn_by_sqnr_alone():
    masks, _ = sensitivity_charts("n", make_study([make_row("a:0:0", "conv", None)]))
    assert masks.spec["datasets"]["rows"][0]["value"] == 2.0
    (noise,) = sensitivity_charts("n", make_study([make_row("a:0:0", "conv", None, mask_loss=None)]))
    assert (noise.name, noise.spec["datasets"]["rows"][0]["value"]) == ("n-sqnr", 20.0)


def test_the_thesis_study_lies_over_that_of_the_same_model():
    rows = [make_row("stage3:4:2", "mbc_project", 20.0), make_row("stage9:9:9", "conv", 1.0)]
    chart, masks, _ = sensitivity_charts("n", make_study(rows, model="L0"))
    assert [row["published"] for row in chart.spec["datasets"]["rows"]] == [pytest.approx(78.4 - 56.8721), None]
    assert chart.marks == 3
    assert "thesis" in chart.reading
    assert masks.marks == 2  # the thesis has no loss of masks
    for other in ({"model": "nano"}, {"scheme": "int4", "model": "L0"}, {"model": "L0", "settings": {"mode": "out"}}):
        assert sensitivity_chart("n", make_study(rows, **other)).marks == 2


def test_agreement_chart_shows_gap_and_interval():
    chart = agreement_chart("n", [make_agreement(0.05), make_agreement(-3.0, "onnxruntime")])
    assert [(row["gap"], row["low"]) for row in chart.spec["datasets"]["rows"]] == [
        (0.05, pytest.approx(0.01)),
        (-3, -3.04),
    ]
    assert marks(drawn(chart), "symbol") == chart.marks == 2
    assert agreement_chart("n", []) is None


def test_front_chart_prefers_what_was_held_out():
    chart = front_chart("n", make_search())
    assert {row["scheme"]: row["score"] for row in chart.spec["datasets"]["rows"]} == {"a": 2.5, "b": 0.4, "int8": 8.0}
    assert chart.spec["datasets"]["front"] == [
        *({"x": 1e6 / 2**20, "score": 2.5}, {"x": 3e6 / 2**20, "score": 0.4}),
    ]
    assert "did not see" in chart.reading
    a = chart.spec["datasets"]["rows"][0]
    assert (a["low"], a["high"]) == (2.5 - 1.96 * 0.2, 2.5 + 1.96 * 0.2)
    assert "Bars: 95 % interval" in chart.reading
    assert drawn(chart).split("mark-rule role-mark")[1].split("</g>")[0].count("<line") == 3


def test_histogram_and_channels_of_the_chosen_site():
    sites = [make_site("a:0:0/input"), make_site("b:0:0/input", per_channel=True)]
    sites.append(make_site("c:0:0/input", grid_low=None))
    chart = histogram_chart("n", sites)
    assert chart.marks == 6  # one of the seven bins is empty
    assert marks(drawn(chart), "rect") == 6
    assert [(row["site"], row["at"]) for row in chart.spec["datasets"]["limits"]] == [
        *(("a:0:0/input", -2.0), ("a:0:0/input", 2.0), ("c:0:0/input", 2.0))
    ]
    assert list(chart.choices) == [site.site for site in sites]
    assert marks(drawn(channels_chart("n", sites)), "rect") == 3


def test_bins_are_drawn_where_they_are():
    svg = drawn(histogram_chart("n", [make_site()]))
    assert "values: 10; right: 0.5; from: 0.000; to: 0.5000" in svg
    assert "values: 3; right: 2.5; from: 2.000; to: 2.500" in svg


def test_many_channels_are_joined_without_losing_an_extreme():
    lows, highs = tuple(-float(i) for i in range(1001)), tuple(float(i == 777) * 50 for i in range(1001))
    (row,) = channels_chart("n", [make_site(channel_lows=lows, channel_highs=highs)]).spec["datasets"]["rows"]
    assert (row["joined"], len(row["lows"]), min(row["lows"]), max(row["highs"])) == (6, 167, -1000.0, 50.0)


def test_hostile_names_stay_text():
    name = "'\"]);alert(1)//</script><img src=x>"
    chart = sensitivity_chart("n", make_study([make_row(name, name, 1.0)], scheme=name))
    svg = drawn(chart)
    assert "<img" not in svg
    assert json.loads(json.dumps(chart.spec))["datasets"]["rows"][0]["unit"] == name


def test_a_damaged_record_is_a_store_error():
    with pytest.raises(StoreError):
        sensitivity_chart("n", make_record(kind="sensitivity", settings={"rows": [{"unit": 3}]}))


def test_the_thesis_own_gap_stands_beside_that_of_an_official_model():
    chart = agreement_chart("n", [make_agreement(0.05, model="l1")])
    rows = {row["row"]: row["gap"] for row in chart.spec["datasets"]["rows"]}
    assert rows == {"int8\nopenvino, box": 0.05, "int8\nTensorRT, box, thesis": pytest.approx(32.9 - 46.8)}
    assert chart.marks == 2


def test_agreements_on_several_data_are_told_apart():
    chart = agreement_chart("n", [make_agreement(0.05), make_agreement(0.1, dataset="other")])
    rows = chart.spec["datasets"]["rows"]
    assert [row["row"] for row in rows] == ["int8\nopenvino, box, toy", "int8\nopenvino, box, other"]


@pytest.mark.parametrize(("fill", "shown"), [(75.0, True), (20.0, False)])
def test_the_filled_box_is_shown_where_it_is_in_reach(store, fill, shown):
    for scheme, miou in (("fp32", 80.0), ("int8", 70.0)):
        figures = {"miou": miou, "box_fill_miou": fill, "size_bytes": 2**20, "fp32_bytes": 2**22}
        store.append(make_record(scheme, figures=figures))
    assert ("fill" in size_chart("n", "nano", task_of(store)).spec["datasets"]) == shown


def test_times_of_another_machine_are_left_out(store):
    times = {"times": {"encoder_ms_median": 5.0}, "engine": "openvino"}
    store.append(make_record("fp32", **times, settings={"threads": 1}))
    store.append(make_record("int8", **times, settings={"threads": 2}))
    chart = latency_chart("n", task_of(store))
    assert [row["scheme"] for row in chart.spec["datasets"]["rows"]] == ["int8"]
    assert "2 threads" in chart.reading
