"""Which records are of the same evaluation, and which float one belongs beside a record."""

import dataclasses

import pytest

from quantsam.metrics.summary import ObjectScore
from quantsam.results.kept import find_baseline, find_evaluation
from quantsam.results.record import Record
from quantsam.results.store import ResultStore

SCORES = (ObjectScore(1, 7, 900.0, 0.5, 0.75),)
INT8 = Record(
    model="nano",
    weights_digest="aa",
    scheme="int8",
    scheme_digest="bb",
    plan_digest="cc",
    placement="thesis",
    dataset="scenes",
    dataset_digest="dd",
    calibration_digest="ee",
    figures={"miou": 50.0},
    environment={"torch": "2"},
    settings={"threads": 2, "device": "cpu", "crowds": True, "weights": True, "activations": True, "seed": 3},
    scores=SCORES,
)
FP32 = dataclasses.replace(
    INT8,
    id="0" * 32,
    scheme="fp32",
    **dict.fromkeys(("scheme_digest", "plan_digest", "placement", "calibration_digest")),
    settings={"threads": 1, "device": "cpu", "crowds": True},
)
DEPENDS_ON = {
    **{name: getattr(INT8, name) for name in ("model", "weights_digest", "scheme", "scheme_digest", "plan_digest")},
    **{name: getattr(INT8, name) for name in ("placement", "dataset", "dataset_digest", "prompt")},
    **{"calibration": "scenes", "calibration_digest": "ee"},
    **{name: value for name, value in INT8.settings.items() if name != "seed"},
    **INT8.environment,
}


@pytest.fixture
def store(tmp_path):
    store = ResultStore(tmp_path / "store.sqlite")
    store.append(INT8)
    return store


def test_the_newest_record_of_an_evaluation_is_found_with_its_scores(store):
    assert find_evaluation(store, DEPENDS_ON) == INT8
    assert find_evaluation(store, DEPENDS_ON).scores == SCORES
    newer = dataclasses.replace(INT8, id="1" * 32, settings={**INT8.settings, "seed": 4})
    store.append(newer)
    assert find_evaluation(store, DEPENDS_ON).id == newer.id


@pytest.mark.parametrize(
    "changes",
    [
        *({name: "zz"} for name in ("weights_digest", "plan_digest", "dataset_digest", "calibration_digest", "prompt")),
        {"engine": "openvino"},
        {"threads": 1},
        {"crowds": False},
        {"torch": "3"},
        {"onnxruntime": "1"},
        {"precision": "bf16"},
        {"repairs": ["streams"]},
        {"integers": "saturating"},
    ],
    ids=str,
)
def test_another_evaluation_is_not_taken_for_it(store, changes):
    assert find_evaluation(store, DEPENDS_ON | changes) is None


@pytest.mark.parametrize("changes", [{"platform": "another kernel"}, {"scheme": "INT8"}], ids=str)
def test_what_changes_no_figure_makes_no_other_evaluation(store, changes):
    assert find_evaluation(store, DEPENDS_ON | changes).id == INT8.id


def test_an_empty_store_has_none(tmp_path):
    empty = ResultStore(tmp_path / "none.sqlite")
    assert find_evaluation(empty, DEPENDS_ON) is None
    assert find_baseline(empty, INT8) is None


def test_the_float_record_of_the_same_objects_is_the_baseline(store):
    assert find_baseline(store, INT8) is None
    others = ({"weights_digest": "zz"}, {"dataset_digest": "zz"}, {"prompt": "click"})
    for number, changes in enumerate((*others, {"settings": {"detections_digest": "x"}})):
        store.append(dataclasses.replace(FP32, id=f"{number + 1}" * 32, **changes))
    assert find_baseline(store, INT8) is None
    store.append(FP32)
    assert find_baseline(store, INT8) == FP32
    assert find_baseline(store, INT8).scores == SCORES
    on_engine = dataclasses.replace(FP32, id="a" * 32, engine="openvino", placement="openvino")
    store.append(on_engine)
    assert find_baseline(store, INT8).id == FP32.id
    assert find_baseline(store, dataclasses.replace(INT8, engine="openvino")).id == on_engine.id
    assert find_baseline(store, dataclasses.replace(INT8, engine="onnxruntime")).id == FP32.id
    in_bf16 = dataclasses.replace(on_engine, id="b" * 32, settings={**FP32.settings, "precision": "bf16"})
    store.append(in_bf16)
    assert find_baseline(store, dataclasses.replace(INT8, engine="openvino")).id == on_engine.id
    store.append(dataclasses.replace(in_bf16, id="c" * 32, engine="tensorrt"))
    assert find_baseline(store, dataclasses.replace(INT8, engine="tensorrt")).id == FP32.id
    store.append(dataclasses.replace(FP32, id="d" * 32))
    assert find_baseline(store, FP32) is None  # nothing is compared with itself, measured again
