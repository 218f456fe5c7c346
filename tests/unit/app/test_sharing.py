"""The local page's server: what it keeps, and that users do not disturb one another."""

import gc
import json
import logging
import threading
import weakref

import pytest

from quantsam.app import answers, quantized
from quantsam.app.answers import Answers
from quantsam.app.asked import MaskRequest
from quantsam.app.catalogue import Catalogue
from quantsam.app.jobs import AbandonedError, Job, Worker
from quantsam.app.limits import Limits
from quantsam.app.lru import Lru
from quantsam.app.pictures import EXAMPLES, make_picture
from quantsam.app.quantized import QuantizedModels
from quantsam.errors import SchemeError
from quantsam.prediction.grid import GridSettings
from quantsam.repair.calibrated import calibrated_plans
from quantsam.runtime import picture
from quantsam.runtime.picture import PicturePrompts
from quantsam.schemes.load import load_scheme

from .conftest import go_away


def without_times(events):
    return [{key: value for key, value in event.items() if not key.endswith("_ms")} for event in events]


def test_pictures_go_least_recently_used_first(serve, noise):
    served = serve(pictures=2)
    first, second = served.upload(noise(1)), served.upload(noise(2))
    assert served.client.get(f"/api/pictures/{first}").status_code == 200
    third = served.upload(noise(3))
    left = [served.client.get(f"/api/pictures/{token}").status_code for token in (first, second, third)]
    assert left == [200, 404, 200]
    assert served.post(second).status_code == 404


def test_pictures_are_bounded_in_bytes_but_the_newest_stays(serve, noise):
    served = serve(picture_bytes=3 * 48 * 64)
    first, second = served.upload(noise(1)), served.upload(noise(2))
    assert [served.client.get(f"/api/pictures/{token}").status_code for token in (first, second)] == [404, 200]


def test_a_picture_is_encoded_once_and_keeps_its_time(served, noise, monkeypatch):
    token = served.upload(noise())
    before = served.ask(token)
    monkeypatch.setattr(answers, "_encode", None)
    after = served.ask(token)
    assert [panel["encoder_ms"] for panel in before[:2]] == [panel["encoder_ms"] for panel in after[:2]]
    assert without_times(before) == without_times(after)


def test_two_at_once_get_the_answers_of_one_at_a_time(serve, noise):
    alone = []
    for seed in (1, 2):
        for model in ("tiny", "other"):
            served = serve()
            alone.append(without_times(served.ask(served.upload(noise(seed)), model=model)))
    assert len({json.dumps(answer) for answer in alone}) == 4
    cold = serve()
    tokens = [cold.upload(noise(seed)) for seed in (1, 2)]
    wanted = [(token, {"model": m}) for token in tokens for m in ("tiny", "other")]
    found = [None] * 4

    def ask(index):
        token, changes = wanted[index]
        found[index] = without_times(cold.ask(token, cold.new_client(), **changes))

    _at_once(ask, range(4))
    assert found == alone


def test_a_plan_is_calibrated_once_for_all_who_ask(served, noise, monkeypatch):
    calls = []

    def counted(*arguments, **options):
        calls.append(arguments)
        return calibrated_plans(*arguments, **options)

    monkeypatch.setattr(quantized, "calibrated_plans", counted)
    tokens = [served.upload(noise(seed)) for seed in range(3)]
    _at_once(lambda token: served.ask(token, served.new_client(), schemes=["int8", "mix-dwsc"]), tokens)
    assert len(calls) == 1


def test_a_full_queue_is_busy_and_empties(serve, noise, held):
    served = serve(waiting=1)
    token = served.upload(noise())
    with held(served.page):
        answer = served.post(token)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "2"
        assert served.client.get("/api/options").status_code == 200  # the event loop is free
    served.page.worker._thread.submit(lambda: None).result()
    assert served.post(token).status_code == 200


def test_a_defect_is_reported_without_its_traceback(serve, noise, monkeypatch, caplog):
    def broken(*_):
        raise ZeroDivisionError("secret")

    for debug in (False, True):
        served = serve(debug=debug)
        token = served.upload(noise())
        with caplog.at_level(logging.ERROR), monkeypatch.context() as patch:
            caplog.clear()
            patch.setattr(answers, "_encode", broken)
            (event,) = served.ask(token)
            assert event["event"] == "error"
            assert "secret" not in event["error"]
            patch.setattr(served.page.pictures, "get", broken)
            answer = served.client.get(f"/api/pictures/{token}")
            assert answer.status_code == 500
            assert "secret" not in answer.text
        assert [record.exc_info is not None for record in caplog.records] == [debug, debug]
        assert served.ask(token)[-1] == {"event": "done"}


def test_who_goes_away_is_not_computed_for(served, noise, catalogue):
    told = []

    def tell(event):
        told.append(event)
        if event["event"] == "panel":
            job.abandoned.set()

    job = Job(tell, threading.Event())
    asked = MaskRequest("", "tiny", ("int8",), "pytorch", PicturePrompts(((4, 4, 40, 40),)), GridSettings())
    with pytest.raises(AbandonedError):
        Answers(QuantizedModels(catalogue, Limits()), Limits()).answer(asked, make_picture(noise()), job)
    assert [event["name"] for event in told if event["event"] == "panel"] == ["fp32"]


def test_who_goes_away_while_masks_are_compared_is_not_waited_for(noise, catalogue, monkeypatch, five_found):
    compared = []

    def compare(reference, other):
        compared.append(reference)
        job.abandoned.set()
        return 0.0

    monkeypatch.setattr(picture, "_agreement", compare)
    job = Job(lambda event: None, threading.Event())
    asked = MaskRequest("", "tiny", ("int8",), "pytorch", PicturePrompts(), GridSettings())
    with pytest.raises(AbandonedError):
        Answers(QuantizedModels(catalogue, Limits()), Limits()).answer(asked, make_picture(noise()), job)
    assert compared == [compared[0]] * 5


def test_who_leaves_the_queue_leaves_a_place(serve, noise, held):
    served = serve(waiting=2)
    token = served.upload(noise())
    with held(served.page):
        assert [go_away(served, token) for _ in range(5)] == [[]] * 5  # nobody was told that the server is busy
    assert served.ask(token)[-1] == {"event": "done"}


@pytest.mark.parametrize("reads", [False, True])
def test_who_goes_away_abandons_the_job_even_before_its_first_line(served, noise, monkeypatch, reads):
    started, seen = threading.Event(), []

    def answer(asked, picture, job):
        started.set()
        job.status("first")
        seen.append(job.abandoned.wait(30))

    monkeypatch.setattr(served.page._answers, "answer", answer)
    sent = go_away(served, served.upload(noise()), after=started, reads=reads)
    served.page.worker.stop()
    assert seen == [True]
    assert [message.get("body") for message in sent] == (
        [None, b'{"event":"status","text":"first"}\n'] if reads else []
    )


def test_a_worker_does_not_hold_what_was_cancelled():
    worker, release = Worker(2), threading.Event()
    worker.submit(lambda: release.wait(60) and None)

    def work():
        raise AssertionError

    kept = weakref.ref(work)
    waiting = worker.submit(work)
    del work
    gc.collect()
    assert kept() is not None
    waiting.cancel()
    gc.collect()
    assert kept() is None
    release.set()
    worker.stop()


def test_examples_are_the_same_for_all_and_push_no_picture_out(serve, noise, monkeypatch):
    served = serve(pictures=2)
    token = served.upload(noise())
    taken = [served.client.post(f"/api/examples/{EXAMPLES[0]}").json() for _ in range(4)]
    assert taken[0] == taken[-1]
    assert served.client.get(f"/api/pictures/{token}").status_code == 200
    first = served.ask(taken[0]["picture"])
    monkeypatch.setattr(answers, "_encode", None)
    assert without_times(served.ask(taken[-1]["picture"], served.new_client())) == without_times(first)
    assert len({served.client.post(f"/api/examples/{number}").json()["picture"] for number in EXAMPLES}) == len(
        EXAMPLES
    )


def test_a_cache_may_be_bounded_in_count_alone():
    kept = Lru(2)
    for number in range(3):
        kept.put(number, number, 2**60)
    assert [kept.get(number) for number in range(3)] == [None, 1, 2]


def test_stopping_ends_a_calibration_at_its_next_picture(serve, noise, monkeypatch):
    served = serve()
    token = served.upload(noise())
    seen = []

    def endless(model, schemes, source, switches, progress):
        for number in progress(range(1000), None):
            seen.append(number)
            served.page.worker.stopping.set()

    monkeypatch.setattr(quantized, "calibrated_plans", endless)
    assert served.ask(token)[-1] == {"event": "error", "error": "the server is stopping"}
    assert len(seen) == 1


def test_a_worker_that_stops_drops_what_waits():
    worker, release, done = Worker(3), threading.Event(), []
    worker.submit(lambda: release.wait(60) and None)
    waiting = worker.submit(lambda: done.append(1))
    threading.Timer(0.05, release.set).start()
    worker.stop()
    assert waiting.cancelled()
    assert done == []


def test_a_scheme_that_fits_no_layer_is_found_at_the_start(catalogue):
    wrong = Catalogue(catalogue.models, {"far": load_scheme("int8@stage3:40")}, ("pytorch",), catalogue.calibration)
    with pytest.raises(SchemeError, match="must match a layer"):
        wrong.check()
    catalogue.check()


def _at_once(function, arguments):
    threads = [threading.Thread(target=function, args=(argument,)) for argument in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
