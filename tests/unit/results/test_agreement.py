import dataclasses

import pytest

from quantsam.results.agreement_record import AgreementRecord


def record(gap=0.0, half=0.05, count=1000, settings=None, **figures):
    figures = {
        "gap": gap, "gap_low": gap - half, "gap_high": gap + half, "gap_standard_error": half / 1.96, "count": count,
        "mask_iou": 99.5, "rounding_mask_iou": 99.4, "convolutions_quantized": 45, "convolutions_integer": 45,
        **figures,
    }  # fmt: skip
    return AgreementRecord(
        model="nano", weights_digest="w", scheme="int8", engine="openvino", dataset="d",
        dataset_digest="x", figures=figures, settings=settings or {},
    )  # fmt: skip


EXACT = {"exact_gap_low": -0.001, "exact_gap_high": 0.001, "exact_mask_iou": 100.0}


@pytest.mark.parametrize(("given", "answer"), [
    ({"gap": 0.04}, "agrees"),
    ({"gap": 0.06}, "too few objects to tell"),  # 0.06 + 0.05 is beyond the margin
    ({"gap": 0.0, "half": 0.12}, "too few objects to tell"),
    ({"gap": -0.81, "half": 0.9}, "too few objects to tell"),
    ({"gap": -1.39, "half": 2.1, "count": 2}, "too few objects to tell"),
    ({"gap": 0.0, "half": 0.0, "count": 2}, "too few objects to tell"),  # two equal objects prove nothing
    ({"gap": 0.16}, "does not agree"),
    ({"gap": -16.2, "half": 1.0}, "does not agree"),
    ({"gap": 0.0, "mask_iou": 90.0}, "does not agree"),  # noise leaves 100 - 2 * 0.6 - 0.5
    ({"gap": 0.0, "mask_iou": 90.0, "rounding_mask_iou": 95.0}, "agrees"),
    ({"gap": 0.0, "rounding_mask_iou": None}, "too few objects to tell"),
    ({"gap": -0.2, "half": 0.3, **EXACT}, "agrees"),  # integers have no noise, and are what is promised
    ({"gap": 0.0, **EXACT, "exact_gap_low": 0.2, "exact_gap_high": 0.3}, "does not agree"),
    ({"gap_low": None, "gap_high": None}, "too few objects to tell"),
])  # fmt: skip
def test_agreement_is_equivalence_within_a_margin(given, answer):
    assert record(**given).verdict.answer == answer


def test_why_not():
    said = str(record(-9.0, settings={"exact": False, "processors": "vnni"}).verdict)
    assert said.startswith("does not agree: margin 0.1 points, 95 % interval -9.05 to -8.95; sums of products")
    assert said.endswith("take --processors any")
    said = str(record(-9.0, convolutions_integer=3).verdict)
    assert said.endswith("the engine computed 42 of 45 quantized convolutions in float")
    assert str(record().verdict) == "agrees"


def test_a_record_of_an_earlier_version_is_told_to_be_measured_again():
    old = record()
    figures = {k: v for k, v in old.figures.items() if k in ("gap", "count", "miou")}
    assert "no interval of the gap: run agree again" in str(dataclasses.replace(old, figures=figures).verdict)
    figures = {k: v for k, v in old.figures.items() if k != "rounding_mask_iou"}
    assert "run agree again with --noise-images" in str(dataclasses.replace(old, figures=figures).verdict)
