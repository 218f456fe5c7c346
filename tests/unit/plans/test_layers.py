"""Layers, sites, and schemes resolved on them."""

from collections import Counter

import pytest
import torch

from quantsam.errors import InputError, PlanError, SchemeError
from quantsam.models.blocks import Conv2d, Site
from quantsam.plans.layers import count_macs, discover_layers, find_layer
from quantsam.plans.make import make_plan
from quantsam.schemes.load import load_scheme, parse_scheme

ATTENTION_SITES = ["q", "k", "v", "relu_q", "relu_k", "kv", "unnormalized", "out"]


@pytest.fixture(scope="module")
def layers(tiny):
    return discover_layers(tiny.float_encoder)


def names(layer):
    return [site.name for site in layer.sites]


def specs(model, text, **toggles):
    """Key of every quantized site -> its specification."""
    plan = make_plan(model, parse_scheme(text, "test"), **toggles)
    return {site.key: site.spec for site in plan.sites}


def test_addresses_and_kinds_of_nano(tiny, layers):
    found = {str(layer.address): layer.kind for layer in layers}
    assert len(found) == len(layers)
    fused, chain = ["fmbc_3x3", "fmbc_1x1"], ["mbc_expand", "mbc_depthwise", "mbc_project"]
    depths, inputs, middle = tiny.variant.depths, len(tiny.variant.neck_stages), tiny.variant.neck_depth
    expected = {"stage0:0": ["conv"]} | {f"stage0:{1 + b}": ["resblock"] * 2 for b in range(depths[0])}
    expected |= {f"stage{s}:{b}": fused for s in (1, 2) for b in range(1 + depths[s])}
    expected |= {f"stage3:{b}": chain for b in range(1 + depths[3])} | {"stage4:0": chain}
    expected |= {f"stage4:{1 + b}": ["qkv", "attention", "attention_proj", *chain] for b in range(depths[4])}
    expected |= {f"neck:{b}": ["neck_in"] for b in range(inputs)}
    expected |= {f"neck:{inputs + b}": fused for b in range(middle)} | {f"neck:{inputs + middle}": ["neck_out"]}
    assert found == {f"{block}:{i}": kind for block, kinds in expected.items() for i, kind in enumerate(kinds)}


def test_sites_of_each_kind(layers):
    by_kind = {layer.kind: names(layer) for layer in reversed(layers)}
    assert by_kind["conv"] == ["input", "weight", "conv", "norm", "act"]
    assert by_kind["fmbc_1x1"] == by_kind["attention_proj"] == ["input", "weight", "conv", "norm"]
    assert by_kind["mbc_expand"] == by_kind["mbc_depthwise"] == ["input", "weight", "conv", "act"]
    assert by_kind["neck_out"] == ["input", "weight", "conv"]
    assert by_kind["attention"] == ATTENTION_SITES
    parts = [f"{part}.{name}" for part in ("depthwise0", "pointwise0") for name in ("input", "weight", "conv")]
    assert by_kind["qkv"] == ["input", "weight", "conv", *parts]


def test_every_site_and_convolution_of_the_model_belongs_to_exactly_one_layer(tiny):
    modules = dict(tiny.float_encoder.named_modules())
    layers = discover_layers(tiny.float_encoder, shortcuts=True)
    paths = Counter(site.path for layer in layers for site in layer.sites)
    assert set(paths) == {p for p, m in modules.items() if isinstance(m, (Site, Conv2d))}
    assert set(paths.values()) == {1}
    for layer in layers:
        for site in layer.sites:
            assert isinstance(modules[site.path], Conv2d if site.role == "weight" else Site)
    weights = sum(p.numel() for m in modules.values() if isinstance(m, Conv2d) for p in m.parameters())
    assert sum(layer.parameters for layer in layers) == weights


def test_layers_and_sites_are_in_the_order_of_the_forward_pass(tiny):
    ran, hooks = [], []
    layers = discover_layers(tiny.float_encoder, shortcuts=True)
    for layer in layers:
        for site in layer.sites:
            if site.role == "activation":
                module = tiny.float_encoder.get_submodule(site.path)
                key = f"{layer.address}/{site.name}"
                hooks.append(module.register_forward_hook(lambda *_, key=key: ran.append(key)))
    with torch.inference_mode():
        tiny.float_encoder(torch.zeros(1, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    declared = [f"{layer.address}/{s.name}" for layer in layers for s in layer.sites if s.role == "activation"]
    assert [key for key in ran if "/q" not in key and "/k" not in key] == [
        key for key in declared if "/q" not in key and "/k" not in key
    ]


def test_find_layer(layers):
    assert find_layer(layers, "L0:stage3:1:1").kind == "mbc_depthwise"
    with pytest.raises(PlanError, match=rf"one of the model's {len(layers)}, got 'stage3:9:1': did you mean '"):
        find_layer(layers, "stage3:9:1")
    with pytest.raises(SchemeError, match=r"must look like 'stage3:4:2'.*got 'stage3'"):
        find_layer(layers, "stage3")


def test_macs_by_hand(tiny, layers):
    macs = {str(address): count for address, count in count_macs(tiny.float_encoder).items()}
    assert macs["stage0:0:0"] == 16 * 32 * 32 * 3 * 9
    assert macs["stage3:1:1"] == (128 * 4) * 4 * 4 * 9  # 128 channels expanded to four times as many, on 4 x 4
    heads = 2 * 192 // 16  # of both scales, of 16 channels each
    assert macs["stage4:1:1"] == 2 * heads * (16 + 1) * 16 * 2 * 2  # two products, on 2 x 2
    assert list(macs) == [str(layer.address) for layer in layers]


def test_later_rules_have_the_last_word_and_float_takes_back(tiny):
    found = specs(
        tiny,
        """
        [[rules]]
        weight = "int8"
        activation = "int8"
        [[rules]]
        select = { kind = "mbc_depthwise" }
        weight = "float"
        activation = "float"
        [[rules]]
        select = { stage = "stage3", block = 1, layer = 1 }
        weight = "int4"
        """,
    )
    assert found["stage3:1:1/weight"].format == "int4"
    assert "stage3:1:1/input" not in found
    assert "stage3:2:1/weight" not in found
    assert found["stage3:1:0/weight"].format == "int8"


def test_a_site_of_its_own_goes_before_its_role(tiny):
    found = specs(
        tiny,
        """
        [[rules]]
        activation = "int8"
        [rules.sites]
        input = "uint8"
        "depthwise0.input" = "int16"
        norm = "float"
        "pointwise0.weight" = "int4"
        """,
    )
    qkv = {key.split("/")[1]: spec.format for key, spec in found.items() if key.startswith("stage4:1:0/")}
    assert qkv == {
        "input": "uint8",
        "conv": "int8",
        "depthwise0.input": "int16",
        "depthwise0.conv": "int8",
        "pointwise0.input": "uint8",
        "pointwise0.weight": "int4",
        "pointwise0.conv": "int8",
    }
    assert not [key for key in found if key.endswith("/norm")]
    assert not found["stage4:1:0/input"].symmetric
    assert found["stage4:1:0/pointwise0.weight"].per_channel


def test_rules_for_other_models_are_skipped(tiny):
    text = """
    [[rules]]
    select = { model = ["l0", "xl1"], stage = "stage9" }
    weight = "int8"
    [[rules]]
    select = { model = "nano", kind = "conv" }
    weight = "int4"
    """
    assert {key: spec.format for key, spec in specs(tiny, text).items()} == {"stage0:0:0/weight": "int4"}


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (
            'select = { stage = "stage9" }\nweight = "int8"',
            r"rule 2: the selector must match a layer of nano, got stage=",
        ),
        (
            'select = { stage = "stage3", block = 7, layer = 1 }\nweight = "int8"',
            r"got stage=\['stage3'\], block=\[7\], layer=\[1\]: did you mean 'stage3:.*see `quantsam layers nano`",
        ),
        ('select = { kind = "conv" }\nsites = { relu_q = "int8" }', "rule 2: no selected layer has a site 'relu_q': "),
        ('sites = { inputt = "int8" }', "rule 2: no selected layer has a site 'inputt': did you mean 'input'"),
    ],
)
def test_what_matches_nothing_is_an_error_that_counts_every_rule(tiny, rule, words):
    skipped = '[[rules]]\nselect = { model = "l0" }\nweight = "int8"\n'
    with pytest.raises(SchemeError, match=words) as caught:
        specs(tiny, f"{skipped}[[rules]]\n{rule}")
    assert "\n" not in str(caught.value)


def test_weights_and_activations_can_be_left_out(tiny):
    both = make_plan(tiny, "int8")
    roles = [make_plan(tiny, "int8", weights=w, activations=not w).sites for w in (True, False)]
    assert {site.role for site in roles[0]} == {"weight"}
    assert {site.role for site in roles[1]} == {"activation"}
    assert len(roles[0]) + len(roles[1]) == len(both.sites)
    assert make_plan(tiny, "int8", weights=False, activations=False).sites == () == make_plan(tiny, "fp32").sites
    assert not both.is_calibrated
    assert make_plan(tiny, "fp32").is_calibrated


def test_a_line_selects_its_layer_only(tiny):
    plan = make_plan(tiny, load_scheme("w4a8@stage3:1:2,neck"))
    assert {site.layer.split(":")[0] for site in plan.sites} == {"stage3", "neck"}
    assert {site.layer for site in plan.sites if site.layer.startswith("stage3")} == {"stage3:1:2"}


def test_an_unknown_placement(tiny):
    with pytest.raises(InputError, match=r"placement must be one of thesis, .*, got 'thesys': did you mean 'thesis'"):
        make_plan(tiny, "int8", placement="thesys")


def test_a_line_for_another_model(tiny):
    with pytest.raises(SchemeError, match="must have a rule for model nano, got rules for l1 alone"):
        make_plan(tiny, "int8@L1:stage3:1:0")
