"""Searches against brute force, and against what their schemes give when used alone."""

import itertools
import random
import re
import shutil

import pytest
import torch

import quantsam as qs
from quantsam.errors import InputError, PlanError
from quantsam.evaluation.journal import Outcomes
from quantsam.evaluation.prompts import parse_prompt
from quantsam.plans.layers import count_macs
from quantsam.plans.sizes import account
from quantsam.results.search_record import SearchEntry, dominating, pareto
from quantsam.results.store import ResultStore
from quantsam.schemes.line import uniform_scheme
from quantsam.schemes.load import parse_scheme
from quantsam.schemes.scheme import Scheme
from quantsam.schemes.write import scheme_to_toml
from quantsam.search.budget import Budget, parse_budget
from quantsam.search.confirm import known_choices
from quantsam.search.costs import (
    CostTable,
    bit_operations_table,
    encoder_ms,
    latency_table,
    size_table,
    without_slow_formats,
)
from quantsam.search.palette import make_palette
from quantsam.search.program import best_choice
from quantsam.search.schemes import search_schemes
from quantsam.search.settings import SearchSettings, check_settings
from quantsam.search.verify import Verifier

FORMATS = ("float", "int8", "w4a8")
SMALL = {"first": 2, "images": 3, "held_out": 2, "points": 3}


@pytest.fixture(scope="module")
def model(tiny):
    """Its weights do not matter here: searches are compared with what their schemes give when used alone."""
    return tiny


@pytest.fixture(scope="module")
def palette(model):
    return make_palette(model, FORMATS, qs.open_images("scenes:2:1"))


@pytest.fixture(scope="module")
def scenes():
    return qs.open_dataset("scenes:6:9")


@pytest.fixture(scope="module")
def studied(model, palette, scenes, tmp_path_factory):
    """A store that holds the layers' studies already: they take longest."""
    store = ResultStore(tmp_path_factory.mktemp("studied") / "r.sqlite")
    search_schemes(model, palette, scenes, SearchSettings(trials=0, **SMALL), store=store)
    return store


@pytest.fixture
def store(studied, tmp_path):
    return ResultStore(shutil.copy(studied.path, tmp_path / "r.sqlite"))


def test_the_integer_program_finds_what_brute_force_finds():
    rng = random.Random(1)
    for _ in range(20):
        losses = [[0.0, rng.random(), rng.random() * 3] for _ in range(5)]
        cells = tuple((9.0, 4.0 * rng.random(), 2.0 * rng.random()) for _ in range(5))
        table = CostTable("size", "bytes", 7.0, cells, 52.0)
        budget = table.lowest + rng.random() * (table.highest - table.lowest)
        within = [c for c in itertools.product(range(3), repeat=5) if table.cost(c) <= budget]
        least = min(sum(losses[i][f] for i, f in enumerate(c)) for c in within)
        found = best_choice(losses, table, budget)
        assert table.cost(found) <= budget * (1 + 1e-6)
        assert sum(losses[i][f] for i, f in enumerate(found)) == pytest.approx(least, abs=1e-9)


def test_an_impossible_budget_is_told_the_range(model, palette):
    table = size_table(model, palette)
    whole, narrow = (account(model.float_encoder, qs.make_plan(model, name).sites) for name in ("fp32", "w4a8"))
    assert table.highest == whole.fp32_bytes
    assert table.lowest == pytest.approx(narrow.size_bytes, abs=len(palette.layers))
    within = re.escape(f"within {table.lowest:g} to {table.highest:g} bytes")
    with pytest.raises(InputError, match=f"{within}.*got 1000"):
        best_choice([[0.0] * 3] * len(palette.layers), table, 1000.0)


def test_a_choice_is_the_plan_that_its_scheme_calibrates_to(model, palette):
    rng = random.Random(3)
    for _ in range(4):
        choice = tuple(rng.randrange(3) for _ in palette.layers)
        scheme = parse_scheme(scheme_to_toml(palette.scheme(choice, "mine")), "other")
        alone = qs.calibrate(model, qs.make_plan(model, scheme), qs.open_images("scenes:2:1"))
        mixed = palette.plan(choice, "mine")
        assert mixed.digest == alone.digest
        assert (mixed.scheme, mixed.scheme_digest) == (alone.scheme, alone.scheme_digest)


def test_written_schemes_read_the_same():
    for name in ("int8", "mix-dwsc", "mix-mbc-neck", "fp32", "w4a8"):
        scheme = qs.load_scheme(name)
        assert parse_scheme(scheme_to_toml(scheme), "other") == scheme
    strange = Scheme('a\x7fb 😀 "q" \\ \n', (), "ü\t")
    assert parse_scheme(scheme_to_toml(strange), "other") == strange
    odd = parse_scheme(
        'name = "odd"\n[[rules]]\nselect = { stage = ["neck"], block = [0] }\nweight = "int4"\n'
        'activation = { format = "int8", observer = "percentile" }\nsites = { "q" = { format = "uint8", quantizer = '
        '"log2" }, "k" = "float" }\n',
        "x",
    )
    assert parse_scheme(scheme_to_toml(odd), "other") == odd


def test_a_mixed_plan_shares_grids_as_its_calibration_does(model):
    images = qs.open_images("scenes:2:1")
    palette = make_palette(
        model, ("float", "int8", "w4a8"), images, placement="onnxruntime", repairs=("ranges", "streams")
    )
    assert len(palette.shared) >= 5
    for shift in range(3):
        mixed = palette.plan(tuple((i // 2 + shift) % 3 for i in range(len(palette.layers))), "mine")
        assert qs.calibrate(model, mixed, images).digest == mixed.digest


def test_a_choice_of_repaired_formats_is_the_plan_that_its_scheme_gives(model):
    images = qs.open_images("scenes:2:1")
    repaired = make_palette(
        model, ("float", "int8", "w4a8"), images, placement="openvino", repairs=("ranges", "streams")
    )
    assert {plan.repairs for plan in repaired.plans} == {("streams",), ("streams", "ranges")}  # float has no ranges
    choice = tuple(i % 3 for i in range(len(repaired.layers)))
    scheme = parse_scheme(scheme_to_toml(repaired.scheme(choice, "mine")), "other")
    assert scheme.repairs == ("streams", "ranges")
    (alone,) = qs.calibrated_plans(model, [scheme], images, "openvino")
    mixed = repaired.plan(choice, "mine")
    assert alone.repairs == mixed.repairs
    assert alone.digest == mixed.digest
    assert qs.calibrate(model, mixed, images).digest == mixed.digest


def test_a_search_does_not_repair_biases(model):
    with pytest.raises(InputError, match=r"a search cannot repair bias, .*: leave it out, and repair the scheme"):
        make_palette(model, FORMATS, qs.open_images("scenes:2:1"), repairs=("streams", "bias"))


def test_costs_add_up(model, palette):
    choice = tuple(i % 3 for i in range(len(palette.layers)))
    size = account(model.float_encoder, palette.plan(choice).sites).size_bytes
    assert size_table(model, palette).cost(choice) == pytest.approx(size, abs=len(palette.layers))
    bits = bit_operations_table(model, palette)
    macs = sum(count_macs(model.float_encoder).values())
    assert bits.cost(palette.uniform(0)) == bits.float_cost == macs * 32 * 32
    assert bits.cost(palette.uniform(1)) == macs * 8 * 8


def test_known_schemes_are_what_they_are_elsewhere(model, palette):
    for name, choice in known_choices(model, palette).items():
        own = qs.make_plan(model, name)
        mixed = palette.plan(choice, name)
        assert [s.key for s in own.sites] == [s.key for s in mixed.sites], name
        assert [s.spec for s in own.sites] == [s.spec for s in mixed.sites], name


def test_a_search_end_to_end(model, palette, scenes, store, tmp_path):
    table = size_table(model, palette)
    settings = SearchSettings(budget=Budget(30, relative=True), trials=4, **SMALL)
    record = search_schemes(model, palette, scenes, settings, store=store)
    entries = record.entries
    assert [e.cost for e in entries] == sorted(e.cost for e in entries)
    chosen = next(e for e in entries if e.name == record.scheme)
    assert chosen.cost <= 0.3 * table.float_cost
    affordable = [e for e in entries if e.cost <= 0.3 * table.float_cost]
    assert chosen.mask_loss == min(e.mask_loss for e in affordable)
    front = [e for e in entries if e.on_front]
    assert [e.mask_loss for e in front] == sorted((e.mask_loss for e in front), reverse=True)
    choice = tuple(FORMATS.index(name) for name in chosen.formats)
    plan = palette.plan(choice)
    assert plan.digest == record.plan_digest
    studies = store.records(kind="sensitivity")
    assert [study.is_of_a_search for study in studies] == [True, True]
    assert [r.id for r in store.records(kind="search")][1:] == [record.id]
    assert not (tmp_path / "r.sqlite-unfinished").exists()


def test_a_stopped_search_goes_on_to_the_same_schemes(model, palette, scenes, store, studied):
    settings = SearchSettings(max_drop=1.0, trials=2, **SMALL)

    def stop_in(label):
        def wrap(items, total):
            for item in items:
                yield item
                if label.startswith("confirming"):
                    raise KeyboardInterrupt

        return wrap

    with pytest.raises(KeyboardInterrupt):
        search_schemes(model, palette, scenes, settings, store=store, progress=stop_in)
    labels = []
    again = search_schemes(
        model,
        palette,
        scenes,
        settings,
        store=store,
        progress=lambda label: lambda items, n: labels.append(label) or items,
    )
    assert {label.split()[0] for label in labels} == {"confirming"}
    assert again.results["entries"] == _undisturbed(model, palette, scenes, settings, studied)
    chosen = next(e for e in again.entries if e.name == again.scheme)
    assert chosen.drop <= 1.0


def test_the_engine_confirms_and_its_latencies_add_up(model, scenes, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setattr("quantsam.evaluation.latency._PAUSE_S", 0)  # times need not be right here
    palette = make_palette(model, ("float", "int8"), qs.open_images("scenes:2:1"), placement="openvino")
    table = latency_table(model, palette, "openvino", threads=1, rounds=3)
    assert all(cell >= 0 for row in table.cells[1:] for cell in row)
    assert table.cost(palette.uniform(0)) == pytest.approx(table.float_cost)
    measured = encoder_ms(model, palette, "openvino", {"int8": palette.uniform(1)}, threads=1, rounds=3)
    assert measured.keys() == {"int8"}
    assert measured["int8"] > 0
    assert table.cost(palette.uniform(1)) > 0
    settings = SearchSettings(
        engine="openvino", budget=Budget(60, relative=True), trials=0, first=2, images=2, held_out=1, points=2, rounds=3
    )
    record = search_schemes(model, palette, scenes, settings)
    chosen = next(e for e in record.entries if e.name == record.scheme)
    assert chosen.engine_drop == pytest.approx(chosen.held_out_drop, abs=1.0)
    assert chosen.measured_ms > 0
    assert record.engine == "openvino"


def test_formats_that_an_engine_runs_no_faster_are_left_out_of_a_search_for_latency(model, palette):
    wide, int8 = palette.formats.index("w4a8"), palette.formats.index("int8")
    cells = tuple(
        tuple(3.0 if f == wide else 1.0 if f == int8 else 2.0 for f in range(len(palette.formats)))
        for _ in palette.layers
    )
    table = CostTable("latency", "ms", 5.0, cells, 5.0 + 2.0 * len(cells))
    fewer, smaller, slow = without_slow_formats(palette, table)
    assert slow == ("w4a8",)
    assert fewer.formats == tuple(name for name in palette.formats if name != "w4a8")
    assert [plan.digest for plan in fewer.plans] == [
        plan.digest for name, plan in zip(palette.formats, palette.plans, strict=True) if name != "w4a8"
    ]
    assert smaller.cost(fewer.uniform(fewer.formats.index("int8"))) == table.cost(palette.uniform(int8))
    same = without_slow_formats(fewer, smaller)
    assert (same[0], same[2]) == (fewer, ())
    none = CostTable("latency", "ms", 5.0, tuple((9.0,) * len(palette.formats) for _ in cells), 5.0)
    with pytest.raises(InputError, match=r"needs a format that the engine runs faster than float, got .*int8"):
        without_slow_formats(palette, none)


def test_onnxruntime_profiles_every_layer(model):
    pytest.importorskip("onnxruntime")
    from quantsam.engines.profile import layer_times

    plan = qs.calibrate(model, qs.make_plan(model, "int8", "onnxruntime"), qs.open_images("scenes:2:1"))
    times = layer_times(model, plan, "onnxruntime", rounds=3, warm_up=1)
    assert times.layers.keys() == {site.layer for site in plan.sites}
    assert 0 <= times.before < times.total


def test_mixed_schemes_measured_together_are_what_each_is_alone(model, palette, scenes):
    rng = random.Random(8)
    choices = [tuple(rng.randrange(3) for _ in palette.layers) for _ in range(3)] + [
        palette.uniform(2),
        palette.uniform(1),
    ]
    ids = list(scenes.image_ids)
    scores = Verifier(model, palette, scenes, ids, parse_prompt("box"), Outcomes()).score(choices)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = qs.evaluate(model, scenes)
    for choice in choices:
        alone = qs.evaluate(model.with_encoder(qs.simulate(model, palette.plan(choice))), scenes)
        assert scores[choice].drop == pytest.approx(qs.compare(alone, whole).mean_difference, abs=1e-12)
    torch.set_num_threads(before)


def _undisturbed(model, palette, scenes, settings, store):
    return search_schemes(model, palette, scenes, settings, store=store).results["entries"]


def test_pareto_and_dominance():
    assert pareto([(1.0, 1.0), (1.0, 1.0), (0.5, 2.0)]) == [2, 0]

    def entry(name, cost, drop, held_out_drop=None, origin="found"):
        return SearchEntry(name, origin, True, (), cost, 1, drop, 0.1, 1.0, 0.1, held_out_drop)

    hand = entry("hand", 10.0, 1.0, 0.5, origin="hand-made")
    same_cost = entry("same", 10.0, 0.0, 0.0)
    lucky = entry("lucky", 2.0, 0.0, 0.6)  # better on the images of the search alone
    uniform = entry("uniform", 3.0, 0.0, 0.0, origin="uniform")
    assert dominating(hand, [hand, same_cost, lucky, uniform]) is None
    dear, cheap = entry("dear", 9.0, 2.0, 0.1), entry("cheap", 8.0, 2.0, 0.5)
    assert dominating(hand, [dear, hand, cheap, lucky]) is cheap
    assert dominating(entry("h", 10.0, 1.0, origin="hand-made"), [entry("f", 9.0, 1.0)]).name == "f"


@pytest.mark.parametrize(
    ("text", "cost", "value"),
    [("1.5 MB", "size", 1.5e6), ("2MiB", "size", 2 * 2**20), ("12ms", "latency", 12), ("3G", "bit-operations", 3e9)],
)
def test_budgets(text, cost, value):
    assert parse_budget(text, cost) == Budget(value)


def test_bad_budgets_and_settings():
    for text in ("", "-3MB", "0%", "12 parsecs", "nan"):
        with pytest.raises(InputError, match="must look like"):
            parse_budget(text, "size")
    for settings in (
        SearchSettings(cost="sise"),
        SearchSettings(cost="latency"),
        SearchSettings(max_drop=-1),
        SearchSettings(max_drop=float("nan")),
        SearchSettings(first=1),
        SearchSettings(images=4),
        SearchSettings(budget=Budget(1), max_drop=1),
    ):
        with pytest.raises(InputError):
            check_settings(settings)
    with pytest.raises(InputError, match="at least two different formats"):
        make_palette(None, ("int8", "int8"), ())


def test_formats_that_an_engine_lacks_are_refused(model):
    from quantsam.engines.encoder import check_formats

    with pytest.raises(PlanError, match="must have a format of openvino"):
        check_formats(qs.make_plan(model, uniform_scheme("fp8_e4m3"), "openvino").sites, "openvino")
