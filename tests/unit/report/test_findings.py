import dataclasses

import pytest

from quantsam.report.content import read_content
from quantsam.report.findings import findings, headline, verdict

from .conftest import (
    make_agreement,
    make_distributions,
    make_record,
    make_repair,
    make_row,
    make_scores,
    make_site,
    make_study,
)


def said(store):
    return [(f.tone, f.text) for f in findings(read_content(store).models[0])]


@pytest.mark.parametrize(("change", "error", "tone", "text"), [
    (0.0, None, "good", "no loss to speak of"),
    (-0.29, None, "good", "no loss to speak of"),
    (-0.31, None, "slight", "a slight loss"),
    (-0.31, 0.2, "good", "no loss to speak of"),
    (-0.31, 0.5, "plain", "too few objects to tell"),
    (-10.0, 17.0, "plain", "too few objects to tell"),
    (8.0, 17.0, "plain", "too few objects to tell"),
    (-1.1, 0.2, "slight", "a clear loss"),
    (-4.9, 0.2, "slight", "a clear loss"),
    (-5.1, 0.2, "bad", "a severe loss"),
    (-30.0, 0.2, "bad", "a collapse"),
    (2.0, 0.2, "good", "a gain"),
])  # fmt: skip
def test_verdicts(change, error, tone, text):
    assert (verdict(change, error).tone, verdict(change, error).text) == (tone, text)


def test_a_collapse_and_the_scheme_that_avoids_it(store):
    store.append(make_record("fp32", 80.0, 40.0), make_scores([0.8] * 4))
    store.append(make_record("int8", 40.0, 10.0), make_scores([0.4] * 4))
    store.append(make_record("mix-dwsc", 79.5, 20.0), make_scores([0.795] * 4))
    store.append(make_record("larger", 79.9, 30.0), make_scores([0.799] * 4))
    texts = said(store)
    assert "FP32), the model reaches 80.0 % mIoU over 4 objects; its encoder takes 40 MiB" in texts[0][1]
    assert texts[1] == (
        "bad",
        "INT8 everywhere, simulated: 40.0 % mIoU in 25 % of the encoder's bytes, a collapse (-40.00 ± 0.00 points).",
    )
    assert texts[2][0] == "slight"
    assert "less than a point, mix-dwsc, simulated: 79.5 % mIoU in 50 %" in texts[2][1]


@pytest.mark.parametrize(("fill", "told"), [(81.0, True), (50.0, False)])
def test_a_model_worse_than_the_filled_box_is_told(store, fill, told):
    store.append(make_record("fp32", figures={"miou": 80.0, "box_fill_miou": fill}))
    assert any(tone == "bad" and f"{fill:.1f} %: FP32 is worse" in text for tone, text in said(store)) == told


def test_a_part_of_int8_is_not_int8_everywhere(store):
    store.append(make_record("fp32", 80.0, 40.0))
    store.append(make_record("int8", 79.9, 10.0, settings={"activations": False}))
    assert not any("INT8 everywhere" in text for _, text in said(store))


def test_few_objects_do_not_make_a_scheme_hold(store):
    store.append(make_record("fp32", 80.0, 40.0), make_scores([0.8, 0.8, 0.8, 0.8]))
    store.append(make_record("int8", 80.0, 10.0), make_scores([1.0, 0.6, 1.0, 0.6]))
    texts = said(store)
    assert "too few objects to tell" in texts[1][1]
    assert "No scheme here surely loses less than a point" in texts[2][1]


def test_without_a_scheme_that_holds_the_nearest_is_named(store):
    for scheme, miou in (("fp32", 80.0), ("int8", 40.0), ("mix", 60.0)):
        store.append(make_record(scheme, miou))
    assert "No scheme here surely loses less than a point; the nearest, mix" in said(store)[2][1]


@pytest.mark.parametrize(("gap", "tone", "words"), [
    (0.05, "good", "and openvino: each agrees with its simulation, with 95 % confidence within 0.1 points of mIoU."),
    (0.1, "plain", "beside its simulation: too few objects to tell: margin 0.1 points, 95 % interval +0.06 to +0.14."),
    (-4.0, "bad", "does not agree with its simulation: margin 0.1 points, 95 % interval -4.04 to -3.96."),
])  # fmt: skip
def test_engines_keep_the_promise_or_not(store, gap, tone, words):
    store.append(make_agreement(gap))
    store.append(make_agreement(0.01, "onnxruntime"))
    ((found, text),) = said(store)
    assert found == tone
    assert words in text


def test_a_sure_gap_is_told_and_not_a_doubtful_one(store):
    doubtful, sure = make_agreement(2.0), make_agreement(1.5, "onnxruntime")
    store.append(dataclasses.replace(doubtful, figures={**doubtful.figures, "gap_low": -1.0, "gap_high": 5.0}))
    store.append(sure)
    assert [("onnxruntime" in text, tone) for tone, text in said(store)] == [(True, "bad")]


def test_two_objects_do_not_make_an_engine_agree(store):
    record = make_agreement(0.0)
    store.append(dataclasses.replace(record, figures={**record.figures, "count": 2}))
    assert said(store) == [("plain", said(store)[0][1])]
    assert "too few objects to tell: 2 objects" in said(store)[0][1]


def test_layers_that_an_engine_ran_in_float_are_told(store):
    record = make_agreement(0.0)
    store.append(dataclasses.replace(record, figures={**record.figures, "convolutions_integer": 12}))
    assert ("slight", "openvino computed 12 of int8's 45 quantized convolutions in integers.") in said(store)


def timed(store, scheme, engine, ms, **settings):
    record = make_record(scheme, 80.0, engine=engine, settings=settings, times={"encoder_ms_median": ms})
    store.append(record)


def test_speed_is_told_of_every_engine(store):
    for engine, before, after in (("openvino", 9.0, 3.0), ("onnxruntime", 20.0, 10.0)):
        timed(store, "fp32", engine, before)
        timed(store, "int8", engine, after)
    (found,) = [(tone, text) for tone, text in said(store) if "as fast" in text]
    assert found[0] == "good"
    assert "3.0 times as fast on openvino (int8: 9.0 to 3.0 ms)" in found[1]
    assert "2.0 times as fast on onnxruntime (int8: 20.0 to 10.0 ms)" in found[1]


def test_faster_than_a_slow_fp32_alone_is_not_good_news(store):
    timed(store, "fp32", "openvino", 9.0)
    timed(store, "fp32", "onnxruntime", 20.0)
    timed(store, "int8", "onnxruntime", 10.0)
    assert [tone for tone, text in said(store) if "as fast" in text] == ["slight"]


@pytest.mark.parametrize("other", [{"threads": 16}, {"device": "cuda"}])
def test_times_of_different_machines_are_not_compared(store, other):
    timed(store, "fp32", "openvino", 9.0, threads=2)
    timed(store, "int8", "openvino", 3.0, **{"threads": 2, **other})
    assert not any("as fast" in text for _, text in said(store))


def test_the_layers_that_hurt_are_named(store):
    drops = {"a:0:0": 0.0, "b:0:0": 7.0, "c:0:0": 2.0}
    rows = [make_row(unit, "conv", drop) for unit, drop in drops.items()]
    doubtful = make_row("d:0:0", "conv", 5.0, drop_se=4.0)
    weights = make_row("e:0:0", "conv", 3.0, part="weights")
    store.append(make_study([*rows, doubtful, weights]))
    ((_, text),) = said(store)
    assert text.endswith(": b:0:0 (conv) 7.0 ± 0.1, e:0:0 weights (conv) 3.0 ± 0.1, c:0:0 (conv) 2.0 ± 0.1.")


def test_layers_that_do_not_hurt_are_good_news(store):
    store.append(make_study([make_row("a:0:0", "conv", 0.1), make_row("b:0:0", "conv", 1.0, drop_se=2.0)]))
    ((tone, text),) = said(store)
    assert tone == "good"
    assert text.startswith("No layer quantized alone")


@pytest.mark.parametrize("changes", [{"ratio": 1.2}, {"per_channel": True}, {"format": None}])
def test_channels_that_do_not_matter_are_not_told(store, changes):
    store.append(make_distributions([make_site(**changes)]))
    assert said(store) == []


def test_the_outlier_channel_is_named(store, fill):
    fill(store)
    assert any("Channel 0 of stage1:0:0/input reaches 9 times" in text for _, text in said(store))


@pytest.mark.parametrize(
    ("kept", "tone", "text"),
    [
        (("streams",), "good", "int8 repaired by streams: masks lose 2.5 points against FP32's, where they lost 40.0."),
        ((), "plain", "No repair of int8 brings its masks nearer to FP32's."),
    ],
)
def test_what_repairs_gave_is_told(store, kept, tone, text):
    store.append(make_repair(*kept))
    assert said(store) == [(tone, text)]


def test_headline_names_each_model_once(store):
    for number, model in enumerate(("nano", "L0", "nano")):
        store.append(make_record(model=model, weights_digest=str(number)))
    assert headline(read_content(store).models) == "nano and L0"
