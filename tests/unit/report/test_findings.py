import pytest

from quantsam.report.content import read_content
from quantsam.report.findings import findings, headline, verdict

from .conftest import make_agreement, make_record, make_row, make_scores, make_study


def said(store):
    return [(f.tone, f.text) for f in findings(read_content(store).subjects[0])]


@pytest.mark.parametrize(("change", "error", "tone"), [
    (0.0, None, "good"),
    (-0.29, None, "good"),
    (-0.31, None, "slight"),
    (-0.31, 0.2, "good"),
    (-4.9, 0.2, "slight"),
    (-5.1, 0.2, "bad"),
    (-30.0, 0.2, "bad"),
    (2.0, 0.2, "good"),
])  # fmt: skip
def test_verdicts(change, error, tone):
    assert verdict(change, error).tone == tone


def test_a_collapse_and_the_scheme_that_avoids_it(store):
    store.append(make_record("fp32", 80.0, 40.0), make_scores([0.8] * 4))
    store.append(make_record("int8", 40.0, 10.0), make_scores([0.4] * 4))
    store.append(make_record("mix-dwsc", 79.5, 20.0), make_scores([0.795] * 4))
    store.append(make_record("larger", 79.9, 30.0), make_scores([0.799] * 4))
    texts = said(store)
    assert texts[0] == (
        "plain",
        "Unquantized (FP32), the model reaches 80.0 % mIoU over 4 objects; its encoder takes 40 MiB.",
    )
    assert texts[1] == ("bad", "INT8 everywhere: 40.0 % mIoU in 25 % of the bytes, a collapse (-40.00 ± 0.00 points).")
    assert texts[2][0] == "slight"
    assert "less than 1 point, mix-dwsc: 79.5 % mIoU in 50 %" in texts[2][1]


def test_without_a_scheme_that_holds_the_nearest_is_named(store):
    for scheme, miou in (("fp32", 80.0), ("int8", 40.0), ("mix", 60.0)):
        store.append(make_record(scheme, miou))
    assert "No scheme here keeps within 1 point; the nearest, mix" in said(store)[2][1]


@pytest.mark.parametrize(("gap", "tone", "words"), [(0.1, "good", "gives what"), (-4.0, "bad", "gives not what")])
def test_engines_keep_the_promise_or_not(store, gap, tone, words):
    store.append(make_agreement(gap))
    store.append(make_agreement(0.01, "onnxruntime"))
    ((found, text),) = said(store)
    assert found == tone
    assert words in text
    assert f"{abs(gap):.2f} points (int8 on openvino)" in text


def test_speed_is_against_the_same_engine(store):
    store.append(make_record("fp32", 80.0, engine="openvino", times={"encoder_ms_median": 9.0}))
    store.append(make_record("int8", 80.0, engine="openvino", times={"encoder_ms_median": 3.0}))
    assert any("3.0 ms a picture, FP32's 9.0 ms: 3.0 times as fast" in text for _, text in said(store))


def test_the_layers_that_hurt_are_named(store):
    drops = {"a:0:0": 0.0, "b:0:0": 7.0, "c:0:0": 2.0}
    store.append(make_study([make_row(unit, "conv", drop) for unit, drop in drops.items()]))
    ((_, text),) = said(store)
    assert "b:0:0 (conv) -7.0, c:0:0 (conv) -2.0" in text


def test_layers_that_do_not_hurt_are_good_news(store):
    store.append(make_study([make_row("a:0:0", "conv", 0.1)]))
    ((tone, text),) = said(store)
    assert tone == "good"
    assert text.startswith("No layer alone")


def test_the_outlier_channel_is_named(store, fill):
    fill(store)
    assert any("0 of stage1:0:0/input, reaches 9 times" in text for _, text in said(store))


def test_headline_names_each_model_once(store):
    for number, model in enumerate(("nano", "L0", "nano")):
        store.append(make_record(model=model, weights_digest=str(number)))
    assert headline(read_content(store).subjects) == "nano and L0"
