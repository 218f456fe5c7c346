import pytest

from quantsam.errors import InputError, StoreError
from quantsam.report import content as contents
from quantsam.report.content import read_content

from .conftest import make_record, make_row, make_scores, make_search, make_study


def by_label(task):
    return {(r.label, r.way): r for r in task.results}


def test_results_are_grouped_by_data_and_prompt_and_compared_with_fp32(store, fill):
    fill(store)
    (subject,) = read_content(store).models
    (task,) = subject.tasks
    assert [(r.label, r.way) for r in task.results] == [
        *(("fp32", "PyTorch"), ("fp32", "openvino"), ("int8", "simulated"), ("mix-dwsc", "simulated")),
        ("int8", "openvino"),
    ]
    found = by_label(task)
    assert found["fp32", "PyTorch"].change is None
    assert found["int8", "simulated"].change == pytest.approx(100 * (-0.7 + 0 + 0.2 + 0.1) / 4)  # object by object
    assert found["int8", "simulated"].change_se > 1
    assert found["int8", "simulated"].spoilt_percent == 25
    assert found["int8", "openvino"].change == pytest.approx(-9.5)  # no scores: the means alone
    assert found["int8", "openvino"].change_se is None
    assert found["int8", "simulated"].size_mib == 10
    assert found["int8", "simulated"].size_percent == 25
    lists = (subject.studies, subject.searches, subject.repairs, subject.agreements, subject.distributions)
    assert [len(one) for one in (*lists, subject.activations)] == [1] * 6
    assert [len(entries) for entries in subject.galleries.values()] == [2]


def test_a_simulation_has_no_latency_but_fp32_and_engines_have(store):
    store.append(make_record("fp32", 80.0, times={"encoder_ms_median": 9.0}))
    store.append(make_record("int8", 70.0, times={"encoder_ms_median": 11.0}))
    store.append(make_record("int8", 70.0, engine="openvino", placement="openvino", times={"encoder_ms_median": 5.0}))
    store.append(
        make_record(
            "int8",
            kind="latency",
            engine="openvino",
            placement="openvino",
            figures={},
            times={"encoder_ms_median": 4.0},
        )
    )
    found = by_label(read_content(store).models[0].tasks[0])
    assert {key: r.encoder_ms for key, r in found.items()} == {
        ("fp32", "PyTorch"): 9.0,
        ("int8", "simulated"): None,
        ("int8", "openvino"): 4.0,  # the stopwatch's, which measures side by side
    }


def test_the_front_is_what_nothing_else_beats_in_both(store):
    for scheme, miou, size in (("fp32", 80.0, 40.0), ("good", 79.0, 10.0), ("poor", 78.0, 20.0), ("tiny", 50.0, 5.0)):
        store.append(make_record(scheme, miou, size))
    (task,) = read_content(store).models[0].tasks
    assert {r.label for r in task.results if r.on_front} == {"fp32", "good", "tiny"}


def test_what_bears_one_name_is_told_apart(store):
    for placement in ("thesis", "openvino"):
        store.append(make_record("int8", placement=placement, plan_digest=placement))
    store.append(make_record("w8a16", calibration="a", plan_digest="1"))
    store.append(make_record("w8a16", calibration="b", plan_digest="2"))
    (task,) = read_content(store).models[0].tasks
    assert {r.label for r in task.results} == {"int8 · thesis", "int8 · openvino", "w8a16 · a", "w8a16 · b"}


def test_models_and_weights_are_kept_apart(store):
    for model, digest in (("nano", "aa"), ("L0", "bb"), ("nano", "cc")):
        store.append(make_record(model=model, weights_digest=digest))
    assert [(s.model, s.weights_digest) for s in read_content(store).models] == [
        *(("nano", "aa"), ("L0", "bb"), ("nano", "cc"))
    ]
    assert [s.model for s in read_content(store, {"model": "L*"}).models] == ["L0"]


def test_a_time_of_several_pictures_is_none_of_one(store):
    store.append(make_record("int8", engine="openvino", times={"encoder_ms_median": 5.0}))
    measured = {"kind": "latency", "figures": {}, "times": {"encoder_ms_median": 64.0}, "settings": {"batch": 16}}
    store.append(make_record("int8", engine="openvino", **measured))
    assert by_label(read_content(store).models[0].tasks[0])["int8", "openvino"].encoder_ms == 5.0


def test_detectors_are_not_compared_with_one_another(store):
    for detector, scheme, ap in (("A", "fp32", 45.0), ("B", "int8", 30.0), ("B", "fp32", 31.0)):
        settings = {"detections": detector, "detections_digest": detector}
        store.append(make_record(scheme, figures={"ap": ap}, prompt="detections", settings=settings))
    tasks = read_content(store).models[0].tasks
    assert [task.name for task in tasks] == ["toy, boxes of B", "toy, boxes of A"]
    assert [r.change for r in tasks[0].results] == [None, -1.0]


def test_fp32_in_fewer_bits_is_not_what_others_are_held_against(store):
    store.append(make_record("fp32", 80.0, engine="openvino"))
    store.append(make_record("fp32", 79.0, engine="openvino", settings={"precision": "bf16"}))
    store.append(make_record("int8", 79.5, engine="openvino"))
    found = by_label(read_content(store).models[0].tasks[0])
    assert found["int8", "openvino"].change == -0.5
    assert found["fp32, bf16", "openvino"].change == -1.0


def test_the_newest_models_are_kept(store, monkeypatch):
    monkeypatch.setattr(contents, "MOST_MODELS", 2)
    for digest in ("a", "b", "c"):
        store.append(make_record(weights_digest=digest))
    store.append(make_record(weights_digest="a", scheme="mix"))
    assert [m.weights_digest for m in read_content(store).models] == ["c", "a"]


def test_latencies_alone_are_no_report(store):
    store.append(make_record(kind="latency", figures={}, times={"encoder_ms_median": 4.0}))
    with pytest.raises(InputError, match="more than latencies"):
        read_content(store)


def test_average_precision_is_a_task_of_its_own(store):
    figures = {"ap": 40.0, "size_bytes": 10, "fp32_bytes": 40}
    store.append(make_record("fp32", figures=figures, prompt="detections"))
    store.append(make_record("int8", figures={**figures, "ap": 30.0}, prompt="detections"))
    (task,) = read_content(store).models[0].tasks
    assert (task.metric, [r.change for r in task.results]) == ("AP", [None, -10.0])
    assert "detector" in task.name


def test_an_empty_store_says_what_to_do(store):
    with pytest.raises(InputError, match=r"got none.*quantsam evaluate"):
        read_content(store)
    store.append(make_record())
    with pytest.raises(InputError, match="leave out a filter"):
        read_content(store, {"model": "L9"})


def test_scores_of_other_objects_are_a_store_error(store):
    store.append(make_record("fp32"), make_scores([0.5, 0.5]))
    store.append(make_record("int8"), make_scores([0.5]))
    with pytest.raises(StoreError, match="same objects"):
        read_content(store)


def test_what_is_left_out_is_said(store, monkeypatch):
    monkeypatch.setattr(contents, "MOST_RECORDS", 6)
    monkeypatch.setattr(contents, "MOST_MODELS", 2)
    monkeypatch.setattr(contents, "MOST_TASKS", 3)
    for number in range(7):
        store.append(make_record(model=f"m{min(number, 4)}", dataset=f"d{number}"))
    found = read_content(store)
    assert (found.shown, found.total, len(found.models)) == (4, 7, 2)
    said = " ".join(found.left_out)
    assert "newest 6" in said
    assert "2 further models" in said
    monkeypatch.setattr(contents, "MOST_MODELS", 9)
    monkeypatch.setattr(contents, "MOST_TASKS", 1)
    assert "m4: 2 further sets" in " ".join(read_content(store).left_out)


def test_studies_that_a_search_measured_for_its_own_use_are_apart(store):
    rows = [make_row("a:0:0", "conv", 1.0)]
    race = {"method": "race", "first": 8}
    store.append(make_study(rows, settings={**race, "most": 48, "images": 20}, plan_digest="own"))
    store.append(make_study(rows, settings={**race, "most": 8, "search": "size"}, plan_digest="marked"))
    store.append(make_study(rows, settings={**race, "most": 8}, plan_digest="older"))
    (found,) = read_content(store).models
    assert [s.plan_digest for s in found.studies] == ["older", "own"]  # as far as is known
    assert [s.plan_digest for s in found.search_studies] == ["marked"]
    store.append(make_search(settings={"unit": "bytes", "cost": "size", "first": 8}))
    (found,) = read_content(store).models
    assert [s.plan_digest for s in found.studies] == ["own"]
    assert [s.plan_digest for s in found.search_studies] == ["older", "marked"]
    assert read_content(store).shown == 4


def test_studies_of_a_search_do_not_take_the_place_of_ones_own(store, monkeypatch):
    monkeypatch.setattr(contents, "MOST_STUDIES", 1)
    rows = [make_row("a:0:0", "conv", 1.0)]
    store.append(make_study(rows, plan_digest="own"))
    for number in range(3):
        store.append(make_study(rows, settings={"search": "size"}, plan_digest=f"{number}"))
    found = read_content(store)
    assert [s.plan_digest for s in found.models[0].studies] == ["own"]
    assert [s.plan_digest for s in found.models[0].search_studies] == ["2"]
    assert "2 older records of kind sensitivity of searches" in " ".join(found.left_out)


def test_a_search_after_ones_own_study_of_the_same_plan_does_not_hide_it(store):
    rows = [make_row("a:0:0", "conv", 1.0)]
    store.append(make_study(rows, plan_digest="same"))
    store.append(make_study(rows, plan_digest="same", settings={"search": "size"}))
    (found,) = read_content(store).models
    assert (len(found.studies), len(found.search_studies)) == (1, 1)


def test_results_are_compared_with_an_fp32_that_a_filter_leaves_out(store, fill):
    fill(store)
    (task,) = read_content(store, {"scheme": "int8"}).models[0].tasks
    assert task.baseline is None
    found = by_label(task)
    assert found["int8", "simulated"].change == pytest.approx(100 * (-0.7 + 0 + 0.2 + 0.1) / 4)
    assert found["int8", "simulated"].change_se > 1


def test_comparisons_stop_where_the_page_is_full(store, monkeypatch):
    for dataset in ("a", "b", "c"):
        for scheme in ("fp32", "int8"):
            store.append(make_record(scheme, dataset=dataset, dataset_digest=dataset), make_scores([0.5, 0.25]))
    found = read_content(store)
    assert [c.size for c in found.models[0].comparisons] == [4, 4, 4]
    assert found.left_out == ()
    monkeypatch.setattr(contents, "MOST_IOUS", 5)
    found = read_content(store)
    assert [c is not None for c in found.models[0].comparisons] == [True, True, False]
    assert found.left_out == ("1 sets of data and prompts cannot be compared object by object: the page is full.",)
