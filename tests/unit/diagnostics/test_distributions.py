"""The record of distributions: kept, found again, and refused where it is damaged."""

import copy

import pytest

from quantsam.data.open import open_images
from quantsam.diagnostics.distributions import measure_distributions
from quantsam.diagnostics.observed import observe_distributions
from quantsam.errors import StoreError
from quantsam.plans.calibration import calibrate
from quantsam.plans.make import make_plan
from quantsam.results.kinds import read_record
from quantsam.results.store import ResultStore


@pytest.fixture(scope="module")
def images():
    return open_images("scenes:1:3")


@pytest.fixture(scope="module")
def plan(tiny, images):
    return calibrate(tiny, make_plan(tiny, "int8@stage3"), open_images("scenes:1:9"))


@pytest.fixture(scope="module")
def record(tiny, plan, images):
    return measure_distributions(tiny, plan, images, notes={"limit": 7})


def test_a_record_says_what_was_measured_on_what(tiny, plan, images, record):
    assert (record.kind, record.model, record.prompt, record.engine) == ("distributions", "nano", None, "pytorch")
    assert (record.dataset, record.dataset_digest) == (images.name, images.digest)
    assert (record.calibration, record.calibration_digest) == (plan.calibration.name, plan.calibration.digest)
    assert (record.scheme, record.plan_digest, record.placement) == ("int8@stage3", plan.digest, "thesis")
    assert (record.settings["limit"], record.figures["images"]) == (7, 1)
    sites = record.sites
    assert record.figures["sites"] == len(sites)
    assert record.figures["outlier_ratio"] == max(site.outlier_ratio for site in sites if site.outlier_ratio)
    clipped = [(s.clipped * s.values, s.values) for s in sites if s.role == "activation" and s.format]
    share = sum(count for count, _ in clipped) / sum(values for _, values in clipped)
    assert record.figures["clipped_percent"] == pytest.approx(100 * share)
    assert share > 0


def test_the_sites_survive_the_store(tiny, plan, images, tmp_path):
    store = ResultStore(tmp_path / "r.sqlite")
    record = measure_distributions(tiny, plan, images, store=store)
    (found,) = store.records(kind="distributions")
    assert found == record
    assert found.sites == record.sites
    assert [site.site for site in found.sites] == [
        site.site for site in observe_distributions(tiny, plan, images).summaries()
    ]


def test_what_the_store_holds_is_not_measured_again_unless_for_a_file(tiny, plan, images, tmp_path):
    store, runs = ResultStore(tmp_path / "r.sqlite"), []

    def progress(items, total):
        runs.append(total)
        return items

    first = measure_distributions(tiny, plan, images, store=store, progress=progress)
    assert measure_distributions(tiny, plan, images, store=store, progress=progress) == first
    assert runs == [1]
    measure_distributions(tiny, plan, images, store=store, progress=progress, histograms=tmp_path / "h.npz")
    assert runs == [1, 1]
    assert (tmp_path / "h.npz").is_file()
    other = measure_distributions(tiny, plan, open_images("scenes:1:4"), store=store, progress=progress)
    assert other.id != first.id
    assert len(store.records()) == 2


DAMAGE = {
    "no sites": lambda data: data["results"].pop("sites"),
    "sites are no list": lambda data: data["results"].update(sites={"a": 1}),
    "a site is no object": lambda data: data["results"]["sites"].append(3),
    "a field is missing": lambda data: data["results"]["sites"][0].pop("low"),
    "a field is unknown": lambda data: data["results"]["sites"][0].update(lowest=1),
    "bins are missing": lambda data: data["results"]["sites"][2].update(bins=None),
    "counts are no list": lambda data: data["results"]["sites"][2]["bins"].update(counts=5),
    "an outlier lacks its bins": lambda data: data["results"]["sites"][2]["outliers"][0].pop("bins"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_record_is_refused(record, kind):
    data = copy.deepcopy(record.to_json_dict())
    assert len(read_record(data).sites) == record.figures["sites"]
    DAMAGE[kind](data)
    with pytest.raises(StoreError, match=record.id):
        _ = read_record(data).sites
