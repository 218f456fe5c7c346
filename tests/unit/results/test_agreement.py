import pytest

from quantsam.results.agreement import agreement_verdict
from quantsam.results.record import Record


def record(gap=0.0, half=0.05, count=1000, settings=None, **figures):
    figures = {
        "gap": gap, "gap_low": gap - half, "gap_high": gap + half, "gap_standard_error": half / 1.96, "count": count,
        "mask_iou": 99.5, "convolutions_quantized": 45, "convolutions_integer": 45, **figures,
    }  # fmt: skip
    return Record(
        kind="agree", model="nano", weights_digest="w", scheme="int8", engine="openvino", dataset="d",
        dataset_digest="x", figures=figures, settings=settings or {},
    )  # fmt: skip


NOISY = {"rounding_gap": 0.0, "rounding_gap_standard_error": 0.15, "rounding_objects": 250, "rounding_mask_iou": 96.0}


@pytest.mark.parametrize(("given", "answer"), [
    ({"gap": 0.04}, "agrees"),
    ({"gap": 0.06}, "too few objects to tell"),  # 0.06 + 0.05 is beyond the margin
    ({"gap": 0.0, "half": 0.12}, "too few objects to tell"),
    ({"gap": -0.81, "half": 0.9}, "too few objects to tell"),
    ({"gap": -1.39, "half": 2.1, "count": 2}, "too few objects to tell"),
    ({"gap": 0.0, "half": 0.0, "count": 2}, "too few objects to tell"),  # two equal objects prove nothing
    ({"gap": 0.16}, "does not agree"),
    ({"gap": -16.2, "half": 1.0}, "does not agree"),
    ({"gap": 0.0, "mask_iou": 90.0, "threads_simulated_mask_iou": 99.9}, "does not agree"),
    ({"gap": 0.0, "mask_iou": 99.4, "threads_simulated_mask_iou": 99.9}, "agrees"),
    ({"gap": 0.1, "mask_iou": 94.0, **NOISY}, "agrees"),  # noise allows 2 * 1.96 * 0.15 / 2 = 0.29 points
    ({"gap": 0.28, "mask_iou": 94.0, **NOISY}, "too few objects to tell"),
    ({"gap": 0.36, "mask_iou": 94.0, **NOISY}, "does not agree"),
    ({"gap": 0.36, "half": 0.01, **{**NOISY, "rounding_gap_standard_error": 9.0}}, "does not agree"),  # at most 0.3
    ({"gap_low": None, "gap_high": None}, "too few objects to tell"),
])  # fmt: skip
def test_agreement_is_equivalence_within_a_margin(given, answer):
    assert agreement_verdict(record(**given)).answer == answer


def test_why_not():
    said = str(agreement_verdict(record(-9.0, settings={"exact": False, "processors": "vnni"})))
    assert said.startswith(
        "does not agree: the gap is beyond 0.1 points, 95 % interval -9.05 to -8.95; sums of products"
    )
    assert said.endswith("take --processors any")
    said = str(agreement_verdict(record(-9.0, convolutions_integer=3)))
    assert said.endswith("the engine computed 42 of 45 quantized convolutions in float")
    assert str(agreement_verdict(record())) == "agrees"
