"""The recipe of nano: what it draws, that it resumes to the same weights, and what it refuses."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image
from safetensors.torch import save_file

from quantsam.data.coco_masks import encode_mask
from quantsam.data.scenes import SceneDataset
from quantsam.errors import DatasetError, InputError, WeightsError
from quantsam.models.encoder import UpSample

RECIPE = Path(__file__).parents[3] / "recipes" / "nano"
sys.path.insert(0, str(RECIPE))

import corrections  # noqa: E402
import decoding  # noqa: E402
import harden  # noqa: E402
import losses  # noqa: E402
import network  # noqa: E402
import optimizers  # noqa: E402
import photographs  # noqa: E402
import samples  # noqa: E402
import score  # noqa: E402
import steps as training_steps  # noqa: E402
import train  # noqa: E402
import warmup  # noqa: E402
import windows  # noqa: E402

TINY = dataclasses.replace(
    network.VARIANT,
    widths=(4, 4, 8, 8, 8),
    depths=(1, 1, 1, 1, 1),
    attention_dim=8,
    neck_width=8,
    neck_depth=1,
    embed_dim=16,
    decoder_mlp_dim=16,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs by source: two of `animals`, one with two objects, and one of a source that may not train."""
    root = tmp_path_factory.mktemp("photographs")
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number, name in enumerate(("animals-1.png", "animals-2.png", "bsds-1.png"), start=1):
        Image.fromarray(rng.integers(0, 255, (96, 128, 3), dtype=np.uint8)).save(root / "images" / name)
        images.append({"id": number, "file_name": name, "width": 128, "height": 96})
        for k in range(3 - min(number, 2)):
            mask = np.zeros((96, 128), bool)
            mask[10 + 30 * k : 30 + 30 * k, 20:70] = True
            annotations.append(
                {
                    "id": 10 * number + k,
                    "image_id": number,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": 1000,
                    "bbox": [20, 10 + 30 * k, 50, 20],
                    "segmentation": encode_mask(mask),
                }
            )
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    (root / "annotations.json").write_text(json.dumps(document))
    return root


def run(out, *more, variant=TINY, pool=None):
    args = train.arguments(["--out", str(out), "--warmup", "1", *more])
    out.mkdir(exist_ok=True)
    return train.Run(args, variant, pool or photographs.Pool(None, None, 1.0, args.seed))


def steps(pool, seed=0, sides=None):
    return samples.StepDataset(seed, pool, sides=sides or {160: 1.0}, prompts=(2, 1), pasting=0.5)


def masks_of(batch):
    return training_steps.apart(torch.from_numpy(batch.members)).numpy()


def same(one, other):
    return all(
        np.array_equal(getattr(one, f.name), getattr(other, f.name))
        for f in dataclasses.fields(one)
        if f.name != "form"
    )


def test_a_step_is_a_function_of_seed_and_number(folder):
    pool, again = (photographs.Pool(None, folder, 0.3, 0) for _ in range(2))
    first, second = steps(pool), steps(again)
    second[4]  # what was drawn before has no influence
    assert same(first[5], second[5])
    assert first.form(5) == second.form(5)
    assert not same(first[5], first[6])
    assert not same(first[5], steps(pool, seed=1)[5])


@pytest.mark.parametrize("side", [160, 320])
def test_prompts_lie_where_their_objects_are(folder, side):
    batch = steps(photographs.Pool(None, folder, 0.5, 0), sides={side: 1.0})[3]
    for n, corner in enumerate(batch.corners):
        assert (corner % network.CELL == 0).all()
        assert (corner + side <= 320).all()
        for click, k in zip(batch.clicks[n] - corner, batch.clicked[n], strict=True):
            x, y = np.round(click).astype(int)
            assert masks_of(batch)[n, k, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].any()
        for box, k in zip(batch.boxes[n] - np.tile(corner, 2), batch.boxed[n], strict=True):
            tight = np.array(photographs.tight_box(masks_of(batch)[n, k]))
            slack = 1 + 0.1 * np.tile(tight[2:] - tight[:2] + 2, 2)
            assert (np.abs(box - tight) <= slack).all()
        for k in range(int(masks_of(batch)[n].any((1, 2)).sum())):
            x, y = network.CELL * batch.seeds[n, k]
            assert masks_of(batch)[n, k, y : y + network.CELL, x : x + network.CELL].any()


def test_a_larger_batch_has_more_windows(folder):
    data = samples.StepDataset(
        0, photographs.Pool(None, folder, 0.3, 0), sides={160: 1.0}, prompts=(1, 1), pasting=0, batch=2
    )
    assert len(data[0].images) == 2 * samples.SIDES[160]


def test_depths_are_those_of_the_distance_transform():
    rng = np.random.default_rng(0)
    smooth = [scipy.ndimage.gaussian_filter(rng.normal(size=(65, 65)), sigma) > 0 for sigma in (1, 3, 9)]
    regions = np.stack([*smooth, np.ones((65, 65), bool), np.zeros((65, 65), bool)])
    found = corrections.depths(torch.from_numpy(regions)).numpy()
    for region, squared in zip(regions, found, strict=True):
        exact = scipy.ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
        assert np.array_equal(squared, np.round(exact**2))
    assert corrections.depths(torch.ones(1, 320, 320, dtype=torch.bool)).max() == 127**2  # as deep as it counts


def test_corrective_clicks_lie_where_the_answer_is_most_wrong():
    truth = torch.zeros(3, 40, 40, dtype=torch.bool)
    truth[:, 5:20, 5:20] = True
    answer = truth.clone()
    answer[0, 5:18] = False  # most of it is missed
    answer[1, 20:38, 4:30] = True  # and here there is too much
    places, labels = corrections.corrective_clicks(answer, truth, torch.Generator().manual_seed(0))
    assert labels.tolist() == [1, 0, -1]
    for k in (0, 1):
        x, y = places[k].int().tolist()
        assert truth[k, y, x] != answer[k, y, x]


def test_upsampling_by_products_is_the_encoders():
    one, other = UpSample(80), UpSample(80)
    network._upsample_by_products(other)
    x = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(other(x), one(x), rtol=1e-5, atol=1e-5)
    other.size = 20
    assert other(x) is x


def test_sizes_take_turns():
    areas = np.array([20.0] * 30 + [3000.0] * 2 + [90000.0])
    drawn = windows.balanced(areas, 4, np.random.default_rng(0))
    assert len(drawn) == 4
    assert {32} < set(drawn)
    assert sum(k in (30, 31) for k in drawn) >= 1


def test_sources_that_may_not_train_and_held_out_pictures_are_left_out(folder, tmp_path, monkeypatch):
    assert photographs.Pool(None, folder, 0.3, 0).counts == {"animals": 2}
    held = tmp_path / "held_out.json"
    held.write_text('["animals-2.png"]')
    monkeypatch.setattr(photographs, "HELD_OUT_FILE", held)
    assert photographs.Pool(None, folder, 0.3, 0).counts == {"animals": 1}


def test_the_list_of_held_out_pictures_is_a_tenth_of_each_source():
    listed = json.loads(photographs.HELD_OUT_FILE.read_text())
    assert len(listed) == len(set(listed)) == 395
    names = [f"animals-{i:04d}.jpg" for i in range(880)]
    tenth = photographs.held_out(names)
    assert len(tenth) == 88
    assert tenth == photographs.held_out(names[::-1])
    assert tenth == [name for name in listed if photographs.source_of(name) == "animals"]


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "SIDES", {160: 1})
    monkeypatch.setattr(train, "SIDES", {160: 1.0})
    monkeypatch.setattr(warmup, "BOXES", 2)
    monkeypatch.setattr(warmup, "CLICKS", 1)
    whole = run(tmp_path / "whole", "--steps", "4")
    train.train(whole)
    part = run(tmp_path / "part", "--steps", "2")
    train.train(part)
    rest = run(tmp_path / "part", "--steps", "4")
    rest.load()
    assert rest.step == 2
    train.train(rest)
    for name in ("learner", "average"):
        one, other = (getattr(r, name) for r in (whole, rest))
        one, other = (getattr(m, "model", m).state_dict() for m in (one, other))
        assert all(torch.equal(value, other[key]) for key, value in one.items())
    lines = (tmp_path / "part" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]


def test_a_decay_may_be_asked_for_at_any_time():
    args = train.arguments(["--warmup", "500", "--learning-rate", "1", "--decay-from", "2000", "--decay-steps", "100"])
    assert [train.learning_rate(step, args) for step in (0, 499, 500, 1999, 2000, 2050)] == [
        1 / 200, 1.0, 1 / 200, 1.0, 1.0, 0.5,
    ]  # fmt: skip
    assert train.last_step(args) == 2100


def test_muon_steps_are_orthogonal_and_as_large_as_adams():
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, 24, 96, generator=generator) * torch.logspace(0, -1.5, 24)[:, None]
    found = torch.linalg.svdvals(optimizers.orthogonal(matrices))
    assert 0.5 < found.min() < found.max() < 1.35
    before = torch.linalg.svdvals(matrices)
    assert (before.amax(1) / before.amin(1)).min() > 30
    layers = torch.nn.ModuleList([torch.nn.Linear(96, 24), torch.nn.Conv2d(8, 128, 3)])
    before = [p.detach().clone() for p in layers.parameters()]
    optimizer = optimizers.make_optimizer([layers], 0.01)
    for layer in layers:
        layer.weight.grad = torch.randn(layer.weight.shape, generator=generator)
    optimizer.step()
    for layer, was in zip(layers, before[::2], strict=True):
        moved = (layer.weight.detach() - was * (1 - 0.01 * optimizers.WEIGHT_DECAY)).square().mean().sqrt()
        assert 0.5 < moved / (0.01 * optimizers.RMS) < 1.5
    for layer, was in zip(layers, before[1::2], strict=True):
        assert torch.equal(layer.bias, was)  # it had no gradient


def test_rows_and_columns_of_zeros_change_no_step():
    matrices = torch.randn(2, 24, 90, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(matrices, (0, 38, 0, 8))
    torch.testing.assert_close(
        optimizers.orthogonal(padded)[:, :24, :90], optimizers.orthogonal(matrices), rtol=1e-4, atol=1e-5
    )


def test_a_run_begins_with_given_weights_and_stops_when_its_time_is_up(tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "SIDES", {160: 1})
    monkeypatch.setattr(train, "SIDES", {160: 1.0})
    given = network.build(TINY, 5).state_dict()
    save_file({name: value.contiguous() for name, value in given.items()}, tmp_path / "given.safetensors")
    line = ("--start", str(tmp_path / "given.safetensors"), "--minutes", "0")
    first = run(tmp_path / "run", *line)
    assert all(torch.equal(value, given[name]) for name, value in first.learner.model.state_dict().items())
    train.train(first)
    assert first.step == 1  # of a million
    again = run(tmp_path / "run", *line)
    again.load()
    assert again.step == 1
    with pytest.raises(InputError, match="keep its arguments, got start None where"):
        run(tmp_path / "run").load()
    with pytest.raises(SystemExit):
        train.arguments(["--workers", "0"])


def test_what_is_no_matrix_is_left_to_adam():
    model = network.build(TINY, 0)
    muon, adam = optimizers.make_optimizer([model], 1.0)._optimizers
    names = {id(p): name for name, p in model.named_parameters()}
    by_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    by_adam = {names[id(p)] for group in adam.param_groups for p in group["params"]}
    assert by_muon | by_adam == set(names.values())
    assert not by_muon & by_adam
    assert not [name for name in by_muon if "depth_conv" in name or "upscaling" in name or "embed" in name]
    assert any("qkv" in name for name in by_muon)


def test_what_does_not_fit_is_refused(tmp_path):
    first = run(tmp_path)
    first.save(first.checkpoint)
    with pytest.raises(WeightsError, match=r"this recipe's size, got another embed_dim: give another --out"):
        run(tmp_path, variant=dataclasses.replace(TINY, embed_dim=32)).load()
    with pytest.raises(InputError, match=r"keep its arguments, got learning_rate 0.1 where .* has 0.002"):
        run(tmp_path, "--learning-rate", "0.1").load()
    earlier = torch.load(first.checkpoint, weights_only=True)
    torch.save(earlier | {"optimizer": earlier["optimizer"][1]}, first.checkpoint)
    with pytest.raises(WeightsError, match="is of a recipe without Muon: give another --out"):
        run(tmp_path).load()
    first.checkpoint.write_bytes(b"PK and nothing else")
    with pytest.raises(WeightsError, match="is damaged"):
        run(tmp_path).load()
    with pytest.raises(DatasetError, match="must have annotations, got no"):
        photographs.open_photographs(tmp_path)


def test_a_mask_of_another_size_is_refused(folder, tmp_path):
    document = json.loads((folder / "annotations.json").read_text())
    document["annotations"][1]["segmentation"] = encode_mask(np.ones((95, 128), bool))
    (tmp_path / "images").symlink_to(folder / "images")
    (tmp_path / "annotations.json").write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=r"annotation 11 of .* must be .* = \[96, 128\], got \[95, 128\]"):
        photographs.open_photographs(tmp_path)


def test_a_small_object_weighs_as_much_as_a_large_one():
    small, large = torch.zeros(1, 64, 64, dtype=torch.bool), torch.zeros(1, 64, 64, dtype=torch.bool)
    small[:, :12, :12], large[:, :48, :48] = True, True

    def loss_of_a_missing_half(truth):
        answer = truth.clone()
        answer[:, : int(truth.any(2).sum() / 2)] = False
        return losses.per_mask((answer.float() * 16 - 8).unsqueeze(1), truth).item()

    assert loss_of_a_missing_half(small) > 0.5 * loss_of_a_missing_half(large)


def test_positions_of_a_window_are_those_of_the_frame():
    model = network.build(TINY, 0)
    whole = model.prompt_encoder.dense_position()
    part = network.window_position(model, torch.tensor([[40.0, 80.0]]), 160)
    assert torch.allclose(part, whole[:, :, 20:60, 10:50], atol=1e-5)


def test_the_decoder_for_training_is_the_mask_decoder():
    model = network.build(TINY, 0)
    network.set_window(model, 32)
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(2, TINY.embed_dim, 8, 8, generator=generator, requires_grad=True)
    position = network.window_position(model, torch.tensor([[0.0, 0.0], [40.0, 80.0]]), 32)
    sparse, dense = model.prompt_encoder(None, 320 * torch.rand(6, 4, generator=generator), None)
    found = []
    for answer in (
        decoding.decode(model.mask_decoder, embedding, position, sparse, dense[:1]),
        model.mask_decoder(
            embedding.repeat_interleave(3, 0), position.repeat_interleave(3, 0), sparse, dense, range(4)
        ),
    ):
        loss = (answer[0] * torch.arange(32)).mean() + answer[1].sum()
        found.append(
            (*answer, *torch.autograd.grad(loss, [embedding, model.mask_decoder.mask_tokens.weight], retain_graph=True))
        )
    for mine, theirs in zip(*found, strict=True):
        assert mine.shape == theirs.shape
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_boxes_are_filled_in_the_frame():
    corners, boxes, masks = warmup.boxes_and_masks(50, 320, torch.Generator().manual_seed(0))
    inner = boxes - corners.repeat(1, 2)
    assert (inner >= 0).all()
    assert (inner <= warmup.SIDE).all()
    area = (inner[:, 2:] - inner[:, :2]).prod(1)
    assert (masks.sum((1, 2)) - area).abs().max() <= 2 * warmup.SIDE


def test_the_first_steps_learn_boxes_and_clicks(monkeypatch):
    monkeypatch.setattr(warmup, "BOXES", 3)
    monkeypatch.setattr(warmup, "CLICKS", 2)
    model = network.build(TINY, 0)
    filled = warmup.fill_boxes(model, 1.0, torch.Generator().manual_seed(0))
    assert filled.boxes.iou.shape == (3, 3)
    assert filled.clicks.iou.shape == (2, 3)
    filled.loss.backward()
    kinds = model.prompt_encoder.point_embeddings
    assert all(kinds[kind].weight.grad.any() for kind in (1, 2, 3))  # positive click, both corners of a box
    smooth = warmup.noise(64, 16, torch.Generator().manual_seed(0))
    assert torch.allclose(smooth.var(1, correction=0), torch.ones(64, 20, 20), atol=1e-2)


def test_a_checkpoint_is_scored(tmp_path):
    first = run(tmp_path)
    first.save(first.checkpoint)
    model, step = score.load(tmp_path)
    assert step == 0
    assert model.variant == TINY
    line = score.score(model, SceneDataset(1, seed=3), "box")
    assert line["all"][2] == len(SceneDataset(1, seed=3).annotations(1))
    assert 0 <= line["all"][0] <= 100
    with pytest.raises(WeightsError, match="must be a run's folder or a file"):
        score.load(tmp_path / "nothing")


def test_peak_ratios_by_hand():
    usual = torch.ones(1, 3, 4, 4)
    usual[:, 2] = 4.0
    stream = usual.clone()
    stream[0, :, 1, 2] = torch.tensor([10.0, -20.0, 40.0])  # sizes 10, 20, 10
    stream[0, :, 3, 3] = torch.tensor([30.0, 20.0, -40.0])
    found = harden.peak_ratios(stream, usual)
    torch.testing.assert_close(found, torch.tensor([[20.0, 20.0, 10.0]]))


def hardened(tmp_path, name, *more):
    line = ["--images", "1", "--steps", "3", "--out", str(tmp_path / name), *more]
    (tmp_path / name).mkdir(exist_ok=True)
    return harden.Run(harden.arguments(line), photographs.Pool(None, None, 1.0, 0))


def test_hardening_starts_hard_and_faithful_and_resumes_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(harden, "RAMP", 1)
    one_image = harden.images(photographs.Pool(None, None, 1.0, 0), 1, 0, 0)
    monkeypatch.setattr(harden, "images", lambda *_: one_image)
    whole, first = hardened(tmp_path, "whole"), hardened(tmp_path, "parts")
    measured = [whole.advance() for _ in range(2)]
    assert measured[0]["error"] < 5e-3  # it starts as nano
    assert measured[0]["missing"] < 3  # with massive positions: 4.6 without
    first.advance()
    first.save()
    second = hardened(tmp_path, "parts")
    second.load()
    assert second.step == 1
    second.advance()
    for one, other in zip(whole.encoder.parameters(), second.encoder.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(InputError, match=r"must keep its arguments, got ratio 7.0 where .*checkpoint.pt has 200.0"):
        hardened(tmp_path, "parts", "--ratio", "7").load()
    second.checkpoint.write_bytes(b"no checkpoint")
    with pytest.raises(WeightsError, match=r"must be one that harden\.py wrote"):
        second.load()
    second.export()
    assert (tmp_path / "parts" / "nano-hard.safetensors").stat().st_size > 1e6
