"""Repairs: what they choose, that the float model stays the same, and that simulation and engines agree as before."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import quantsam as qs
from quantsam.diagnostics.departures import report_layers
from quantsam.engines.encoder import make_engine_encoder
from quantsam.engines.onnx_encoder import encoder_to_onnx
from quantsam.errors import CalibrationError, InputError, PlanError
from quantsam.models.graph import copy_encoder
from quantsam.models.outliers import with_hidden_outlier_channels, with_outlier_channels
from quantsam.models.structure import structure_of
from quantsam.models.variants import VARIANTS
from quantsam.notices import Notice
from quantsam.plans.prepare import prepare
from quantsam.plans.shared_grids import shared_grids, shared_sites
from quantsam.plans.storage import load_plan, save_plan
from quantsam.plans.transforms import ChooseRanges, ScaleInputs, ScaleOutputs, ScaleStreams
from quantsam.prediction.transforms import preprocess
from quantsam.quant.quantizers import fake_quantize
from quantsam.repair.balance import balanced, levelled
from quantsam.repair.repair import repair_plan
from quantsam.schemes.repairs import REPAIRS, parse_repairs
from quantsam.simulation.simulator import simulate

EXACT = ("streams", "migrate")
"""Repairs that keep what the float model computes."""

PLACEMENTS = ("thesis", "onnxruntime", "openvino", "tensorrt")
OF_INT8 = [name for name in REPAIRS if name != "rounding"]  # which leaves weights of 8 bits alone


@pytest.fixture(scope="module")
def hard(tiny):
    return with_hidden_outlier_channels(with_outlier_channels(tiny, factor=64), factor=64)


@pytest.fixture(scope="module")
def images():
    return qs.open_images("scenes:4:1")


@pytest.fixture(scope="module")
def image(hard):
    return preprocess(qs.open_images("scenes:1:7")[0], hard.variant.input_size)


@pytest.fixture(scope="module")
def repaired(hard, images):
    return {name: repair_plan(hard, qs.make_plan(hard, "int8", name), images, EXACT) for name in PLACEMENTS}


def noise_db(model, plan, image):
    with torch.inference_mode():
        true, found = model.image_encoder(image), simulate(model, plan)(image)
    return float(10 * torch.log10((found - true).pow(2).sum() / true.pow(2).sum()))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_float_model_stays_the_same_and_less_is_lost(hard, images, image, repaired, placement):
    plan = repaired[placement]
    plain = qs.calibrate(hard, qs.make_plan(hard, "int8", placement), images)
    with torch.inference_mode():
        torch.testing.assert_close(prepare(hard, plan)(image), prepare(hard, plain)(image), rtol=0, atol=0)
    assert noise_db(hard, plan, image) < noise_db(hard, plain, image) - 6
    assert plan.is_calibrated
    assert (plan.scheme, plan.encoder_digest, plan.placement) == (plain.scheme, plain.encoder_digest, placement)
    assert plan.digest != plain.digest


def test_streams_undo_what_was_put_on_them(tiny, hard, images):
    """A power of two on a channel of each stream is found and taken off again, to a factor of two."""
    plan = repair_plan(hard, qs.make_plan(hard, "int8", "openvino"), images, "streams")
    before = repair_plan(tiny, qs.make_plan(tiny, "int8", "openvino"), images, "streams")
    (scaled,) = [t for t in plan.transforms if isinstance(t, ScaleStreams)]
    usual = {n: e for t in before.transforms if isinstance(t, ScaleStreams) for n, e in t.values.items()}
    streams = {stream.name for stream in structure_of(hard.float_encoder).streams}
    assert streams <= scaled.values.keys()
    for name, exponents in scaled.values.items():
        if name not in streams:
            continue  # nothing was put on what lies within attention
        more = exponents - usual.get(name, torch.zeros_like(exponents))
        assert int((more >= 5).sum()) == 2
        assert more.max() <= 7


@pytest.mark.parametrize("placement", ["thesis", "onnxruntime"])
def test_look_ups_compute_what_the_modules_do(hard, image, repaired, placement):
    plan = repaired[placement]
    with torch.inference_mode():
        fused, plain = simulate(hard, plan)(image), simulate(hard, plan, fused=False)(image)
    assert torch.equal(fused, plain)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_compute_in_integers_what_the_simulation_does(hard, image, repaired, engine):
    pytest.importorskip(engine)
    plan = repaired[engine]
    layers = report_layers(hard, plan, image, simulate)
    assert all(layer.is_integer for layer in layers if layer.quantized)
    if engine == "onnxruntime":  # OpenVINO's float operations between differ in the last bit, which flips ties
        assert_met_to_the_last_code(layers)
    with torch.inference_mode():
        exact = simulate(hard, plan, exact=True)(image)
        deployed = make_engine_encoder(hard, plan, engine, threads=1)(image)
    lost, kept = (deployed - exact).pow(2).sum(), (exact - hard.image_encoder(image)).pow(2).sum()
    assert lost < 0.7 * kept  # random weights spread a flipped code far; the bundle's check looks layer by layer


def assert_met_to_the_last_code(layers):
    """Assert it of all up to where the neck adds up what it up-samples: a last bit may move a code at a tie."""
    inputs = len(VARIANTS["nano"].neck_stages)
    behind = {f"neck:{inputs + block}" for block in range(VARIANTS["nano"].neck_depth + 1)}
    before = [layer for layer in layers if layer.layer.rpartition(":")[0] not in behind]
    assert {layer.exact.most_lsb for layer in before} == {0}
    after = [layer for layer in layers if layer not in before]
    assert after[0].exact.differing < 0.005
    assert all(layer.exact.differing < 0.05 for layer in after)  # each convolution spreads it


def test_scales_are_part_of_rounding_or_multiplications(hard, repaired):
    def operators(name):
        return [node.op_type for node in encoder_to_onnx(hard, repaired[name]).graph.node]

    assert "Mul" not in operators("openvino")
    assert any(isinstance(t, ScaleInputs) for t in repaired["openvino"].transforms)
    for name in ("onnxruntime", "tensorrt"):
        scaled = [t for t in repaired[name].transforms if isinstance(t, ScaleInputs | ScaleOutputs)]
        assert operators(name).count("Mul") == sum(len(t.values) for t in scaled) > 0


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_bundle_of_a_repaired_plan_is_checked_layer_by_layer_where_it_runs(hard, repaired, tmp_path, engine):
    pytest.importorskip(engine)
    manifest = qs.export_bundle(hard, repaired[engine], tmp_path / "bundle", engine=engine)
    assert manifest.check.layers
    qs.load_bundle(tmp_path / "bundle", threads=1)


def test_a_repaired_plan_is_saved_and_not_repaired_again(hard, images, image, repaired, tmp_path):
    plan = repaired["onnxruntime"]
    loaded = load_plan(save_plan(plan, tmp_path / "plan"), hard)
    assert loaded.digest == plan.digest
    again = repair_plan(hard, loaded, images, EXACT)
    assert again.transforms == loaded.transforms
    assert again is loaded
    float_plan = dataclasses.replace(plan, sites=())
    pytest.importorskip("onnxruntime")
    with torch.inference_mode():
        deployed = make_engine_encoder(hard, float_plan, "onnxruntime", threads=1)(image)
        torch.testing.assert_close(deployed, hard.image_encoder(image), rtol=1e-4, atol=1e-4)


def test_damaged_exponents_are_refused(hard, repaired, tmp_path):
    folder = save_plan(repaired["openvino"], tmp_path / "plan")
    tensors = load_file(folder / "params.safetensors")
    name = next(name for name in tensors if name.startswith("transform:1."))
    save_file({**tensors, name: tensors[name].float()}, folder / "params.safetensors")
    with pytest.raises(PlanError, match="is damaged") as caught:
        load_plan(folder, hard)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_repaired(hard, images):
    plan = qs.make_plan(hard, "int8", "openvino")
    with pytest.raises(InputError, match=r"one of reflect, .*bias, got 'stream': did you mean"):
        repair_plan(hard, plan, images, "stream")
    with pytest.raises(PlanError, match=r"needs something that is quantized, got scheme 'fp32': take int8"):
        repair_plan(hard, qs.make_plan(hard, "fp32", "openvino"), images)
    with pytest.raises(CalibrationError, match="at least one image"):
        repair_plan(hard, plan, [])
    with pytest.raises(InputError, match="repairs must be some of"):
        parse_repairs([])


def test_balance_of_channels():
    activation, weight = torch.tensor([1.0, 16.0, 1.0, 0.0]), torch.tensor([1.0, 1 / 16, 1.0, 1.0])
    assert balanced(activation, weight, 1.0).tolist() == [0, 4, 0, 0]
    assert balanced(activation, weight, 0.5).tolist() == [0, 4, 0, 0]
    assert balanced(activation, torch.ones(4), 0.5).tolist() == [0, 2, 0, 0]
    assert balanced(activation, torch.ones(4), 0.0).tolist() == [0, 0, 0, 0]
    assert balanced(torch.zeros(4), weight, 1.0).tolist() == [0, 0, 0, 0]
    assert levelled(torch.tensor([-8.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 0.0])).tolist() == [0, -3, 0]
    assert levelled(torch.zeros(2), torch.zeros(2)).tolist() == [0, 0]


def test_weights_alone_are_not_repaired():
    with pytest.raises(InputError, match="a repair needs quantized activations, got weights alone: leave streams out"):
        qs.Deployment(repairs=("streams",), activations=False).check()


@pytest.mark.parametrize("placement", ["thesis", "onnxruntime", "openvino"])
def test_bias_takes_back_the_mean_error_of_each_convolution(tiny, images, placement):
    plain = qs.calibrate(tiny, qs.make_plan(tiny, "w4a8", placement), images)
    plan = repair_plan(tiny, qs.make_plan(tiny, "w4a8", placement), images, "bias")
    assert plan.repairs == ("bias",)
    for a, b in zip(plan.sites, plain.sites, strict=True):
        assert torch.equal(a.grid.scale, b.grid.scale), a.key  # the grids are those of the float model
    before, after = mean_errors(tiny, plain, images), mean_errors(tiny, plan, images)
    assert sum(after.values()) < 0.02 * sum(before.values())  # what is left are biases rounded to int32


def mean_errors(model, plan, images):
    """Return of each quantized convolution how far its output's means are off, with the float model's input."""
    prepared, simulated = prepare(model, plan), simulate(model, plan, fused=False).encoder
    sums = {}

    def hook(weight, x):
        def look(module, inputs):
            true, rounding = prepared.get_submodule(weight.path), simulated.get_submodule(weight.path)
            rounded = fake_quantize(inputs[0].contiguous(), x.spec, x.grid)
            a, b = (
                F.conv2d(given, conv.weight, conv.bias, conv.stride, conv.padding, 1, conv.groups).mean((0, 2, 3))
                for given, conv in ((inputs[0], true), (rounded, rounding))
            )
            sums[weight.path] = sums.get(weight.path, 0) + (b - a)

        return look

    watched = copy_encoder(prepared).eval()
    for weight, x in plan.quantized_convolutions():
        watched.get_submodule(weight.path).register_forward_pre_hook(hook(weight, x))
    with torch.inference_mode():
        for picture in images:
            watched(preprocess(picture, model.variant.input_size))
    return {path: float(total.abs().sum()) for path, total in sums.items()}


def test_only_what_is_rounded_gets_the_correction(tiny, images, image):
    plan = repair_plan(tiny, qs.make_plan(tiny, "w4a8", "openvino"), images, "bias")
    bare = dataclasses.replace(plan, sites=())
    with torch.inference_mode():
        true = tiny.image_encoder(image)
        torch.testing.assert_close(prepare(tiny, plan)(image), true, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(simulate(tiny, bare)(image), true, rtol=1e-4, atol=1e-4)


def test_a_correction_is_made_anew_where_more_is_repaired(tiny, images):
    model = with_outlier_channels(tiny, factor=8)  # not so hard that a shift is implausible
    first = repair_plan(model, qs.make_plan(model, "int8", "openvino"), images, "bias")
    later = repair_plan(model, first, images, "streams")
    at_once = repair_plan(model, qs.make_plan(model, "int8", "openvino"), images, "streams,bias")
    assert (first.repairs, later.repairs, at_once.repairs) == (("bias",), ("streams", "bias"), ("streams", "bias"))
    assert later.digest == at_once.digest


def test_weights_alone_and_nearly_dead_channels(tiny, images):
    weights = qs.make_plan(tiny, "int8", "openvino", activations=False)
    with pytest.raises(PlanError, match="needs quantized activations, got a plan of weights alone: quantize both"):
        repair_plan(tiny, weights, images)
    dead = torch.tensor([1e-7, 1.0, 1.0])
    assert balanced(dead, torch.ones(3), 1.0).tolist() == [-8, 0, 0]
    assert balanced(1 / dead, torch.ones(3), 1.0).tolist() == [14, 0, 0]


def test_an_implausible_shift_is_left_alone_and_said(tiny, images, monkeypatch):
    monkeypatch.setattr("quantsam.repair.bias.IMPLAUSIBLE", 0.0)
    with pytest.warns(Notice, match=r"repair bias leaves \d+ convolutions as they are, the first of stage0:0:0"):
        plan = repair_plan(tiny, qs.make_plan(tiny, "int8", "openvino"), images, "bias")
    assert plan.repairs == ()


def test_damaged_shifts_are_refused(tiny, images, tmp_path):
    plan = repair_plan(tiny, qs.make_plan(tiny, "int8", "openvino"), images, "bias")
    folder = save_plan(plan, tmp_path / "plan")
    tensors = load_file(folder / "params.safetensors")
    name = next(name for name in tensors if name.startswith("transform:1."))
    save_file({**tensors, name: tensors[name] * float("nan")}, folder / "params.safetensors")
    with pytest.raises(PlanError, match="is damaged"):
        load_plan(folder, tiny)


def test_a_repaired_plan_is_kept_apart_from_others(tiny, images, monkeypatch, tmp_path):
    monkeypatch.setenv("QUANTSAM_CACHE", str(tmp_path))
    plan = qs.make_plan(tiny, "int8", "openvino")
    digests = [repair_plan(tiny, plan, images, names).digest for names in ("streams", "streams,bias", "streams")]
    assert digests[0] == digests[2] != digests[1]
    monkeypatch.setattr("quantsam.repair.repair.calibrate", lambda *a, **k: pytest.fail("it was calibrated before"))
    assert repair_plan(tiny, plan, images, "streams,bias").digest == digests[1]


def test_shift_narrows_what_the_readers_of_a_stream_span(tiny, images, image):
    model = copy.deepcopy(tiny)
    stream = next(s for s in structure_of(model.float_encoder).streams if s.name == "stage3")
    with torch.no_grad():  # a stream with a mean far from zero
        model.float_encoder.get_submodule(stream.writers[0].norm).bias[::2] += 40
    plain = qs.calibrate(model, qs.make_plan(model, "int8", "openvino"), images)
    plan = repair_plan(model, qs.make_plan(model, "int8", "openvino"), images, "shift")
    assert plan.repairs == ("shift",)
    scales = {site.path: float(site.grid.scale) for site in plan.sites if site.grid.axis is None}
    before = {site.path: float(site.grid.scale) for site in plain.sites if site.grid.axis is None}
    for reader in stream.readers:
        assert scales[reader.input_site] < 0.7 * before[reader.input_site]
    with torch.inference_mode():
        torch.testing.assert_close(prepare(model, plan)(image), model.image_encoder(image), rtol=1e-4, atol=1e-4)
    assert noise_db(model, plan, image) < noise_db(model, plain, image)


@pytest.fixture(scope="module")
def ranged(tiny, images):
    """Plans of all placements before and after their ranges were chosen."""
    bare = {name: qs.make_plan(tiny, "w4a8", name) for name in PLACEMENTS}
    return {
        name: (qs.calibrate(tiny, plan, images), repair_plan(tiny, plan, images, "ranges"))
        for name, plan in bare.items()
    }


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_chosen_ranges_lose_less_at_every_convolution(tiny, images, ranged, placement):
    plain, plan = ranged[placement]
    assert plan.repairs == ("ranges",)
    pairs = zip(plan.sites, plain.sites, strict=True)
    changed = {a.key for a, b in pairs if not torch.equal(a.grid.scale, b.grid.scale)}
    assert changed
    assert not any(key.endswith("weight") for key in changed)
    before, after = output_errors(tiny, plain, images), output_errors(tiny, plan, images)
    if placement == "thesis":  # also rounds behind BatchNorm and GELU, which no range of a convolution mends
        assert sum(after.values()) < sum(before.values())
        return
    assert sum(after[path] <= 1.001 * before[path] for path in after) > 0.75 * len(after)
    assert sum(after.values()) < sum(before.values())


def output_errors(model, plan, images):
    """Return of each quantized convolution the share of its output's energy that rounding loses, GELU included."""
    prepared, simulated = prepare(model, plan), simulate(model, plan, fused=False).encoder
    convolutions = {c.conv: c for c in structure_of(prepared).convolutions}
    sums = {}

    def hook(path):
        behind = [prepared.get_submodule(p) for p in (convolutions[path].norm, convolutions[path].act) if p]

        def look(module, inputs):
            outputs = []
            for encoder in (prepared, simulated):
                y = encoder.get_submodule(path)(inputs[0])
                for one in behind:
                    y = one(y)
                outputs.append(y)
            true, found = outputs
            sums[path] = sums.get(path, 0) + float((found - true).square().sum() / true.square().sum())

        return look

    watched = copy_encoder(prepared).eval()
    for weight, _ in plan.quantized_convolutions():
        watched.get_submodule(weight.path).register_forward_pre_hook(hook(weight.path))
    with torch.inference_mode():
        for picture in images:
            watched(preprocess(picture, model.variant.input_size))
    return sums


def test_chosen_ranges_stay_where_a_plan_is_saved_or_calibrated_again(tiny, images, ranged, tmp_path):
    _, plan = ranged["onnxruntime"]
    assert load_plan(save_plan(plan, tmp_path / "plan"), tiny).digest == plan.digest
    assert qs.calibrate(tiny, plan, images).digest == plan.digest


def test_ranges_of_another_plan_are_refused(tiny, images, ranged):
    _, plan = ranged["onnxruntime"]
    first = next(t for t in plan.transforms if isinstance(t, ChooseRanges))
    lost = next(iter(first.values))
    fewer = dataclasses.replace(plan, sites=tuple(site for site in plan.sites if site.key != lost))
    with pytest.raises(PlanError, match=rf"range must be of a site of the plan, got '{lost}': repair the plan again"):
        qs.calibrate(tiny, fewer, images)
    key, ends = next(iter(first.values.items()))
    damaged = dataclasses.replace(first, values={key: torch.cat([ends, ends], 1)})
    odd = dataclasses.replace(plan, transforms=(*plan.transforms[:-1], damaged))
    with pytest.raises(PlanError, match=r"has \d+ scales, got ranges"):
        qs.calibrate(tiny, odd, images)


def test_all_repairs_together_run_on_the_engines(hard, images, image):
    for engine in ("onnxruntime", "openvino"):
        pytest.importorskip(engine)
        plan = repair_plan(hard, qs.make_plan(hard, "int8", engine), images, OF_INT8)
        assert {"streams", "migrate", "ranges", "bias"} <= set(plan.repairs)
        layers = report_layers(hard, plan, image, simulate)
        assert all(layer.is_integer for layer in layers if layer.quantized)
        if engine == "onnxruntime":
            assert_met_to_the_last_code(layers)


@pytest.mark.parametrize("placement", ["onnxruntime", "onnxruntime+additions"])
def test_what_onnxruntime_makes_of_a_repaired_plan_is_what_the_simulation_does(hard, images, image, placement):
    pytest.importorskip("onnxruntime")
    plan = repair_plan(hard, qs.make_plan(hard, "int8", placement), images, OF_INT8)
    found = make_engine_encoder(hard, plan, "onnxruntime")(image)
    with torch.inference_mode():
        exact, true = simulate(hard, plan, exact=True)(image), hard.image_encoder(image)
    # the layer by layer reports cannot see what an engine makes of two rounded tensors that meet
    assert (found - exact).square().mean() < 0.01 * (exact - true).square().mean()


def test_an_input_has_the_grid_of_the_rounded_output_that_it_reads(hard, images):
    plan = repair_plan(hard, qs.make_plan(hard, "int8", "onnxruntime"), images, "ranges")
    sites, chosen = {site.path: site for site in plan.sites}, plan.transforms[-1].values
    pairs = [
        (sites[output], sites[path])
        for output, inputs in shared_sites(prepare(hard, plan))
        for path in inputs
        if path in sites
    ]
    assert len(pairs) >= 5
    assert any(output.key in chosen for output, _ in pairs)
    assert not any(site.key in chosen for _, site in pairs)
    for output, site in pairs:
        assert torch.equal(output.grid.scale, site.grid.scale)
        assert torch.equal(output.grid.zero_point, site.grid.zero_point)


def test_grids_are_shared_only_where_an_engine_rounds_once(tiny):
    for placement, count in (("onnxruntime", 5), ("onnxruntime+vnni", 5), ("thesis+fold", 0), ("openvino", 0)):
        plan = qs.make_plan(tiny, "int8", placement)
        assert len(shared_grids(prepare(tiny, plan), plan)) >= count
        assert count or not shared_grids(prepare(tiny, plan), plan)
    mixed = qs.make_plan(tiny, "int8@stage1:0:0", "onnxruntime")  # what reads its output stays in float
    assert not shared_grids(prepare(tiny, mixed), mixed)
