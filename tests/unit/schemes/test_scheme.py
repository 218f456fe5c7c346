import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantsam.errors import SchemeError
from quantsam.schemes.scheme import LAYER_KINDS, Address, Rule, Scheme, Selector, Target

INT8 = Target("int8")
RULE = Rule(Selector(stage=("stage3",)), {"weight": INT8, "activation": None})


@given(st.sampled_from(["neck", "stage0", "stage3", "stage12"]), st.integers(0, 99), st.integers(0, 99))
def test_an_address_is_read_as_it_is_written(stage, block, layer):
    address = Address(stage, block, layer)
    assert Address.parse(str(address)) == address
    assert Address.parse(f"L0:{address}") == address
    assert Address.parse(str(address).upper()) == address


@pytest.mark.parametrize("model", ["l0", "L2", "xl1", "XL0", "nano"])
def test_the_model_in_front_is_left_out(model):
    assert Address.parse(f"{model}:neck:7:0") == Address("neck", 7, 0)


@pytest.mark.parametrize(
    "text",
    ["", "stage3", "stage3:4", "stage3:4:", "stage3:4:2:1", "stage3:4:-1", "stage:4:2", "neck1:0:0", " stage3:4:2",
     "4:2", "stage3:4:2\n", "stage3.4.2", "stage3:4:\uff12", "L0:L1:stage3:4:2", "stage3:a:b"],
)  # fmt: skip
def test_anything_else_is_no_address(text):
    with pytest.raises(SchemeError) as caught:
        Address.parse(text)
    message = str(caught.value)
    assert message == (
        f"layer address must look like 'stage3:4:2' or 'neck:7:0', got {text!r}: see `quantsam layers MODEL`"
    )
    assert "\n" not in message


def test_addresses_sort_by_number():
    assert sorted([Address("stage1", 10, 0), Address("stage1", 2, 1), Address("stage1", 2, 0)]) == [
        Address("stage1", 2, 0),
        Address("stage1", 2, 1),
        Address("stage1", 10, 0),
    ]


@pytest.mark.parametrize(
    ("selector", "matched"),
    [
        (Selector(), True),
        (Selector(stage=("stage3",)), True),
        (Selector(stage=("neck", "stage3")), True),
        (Selector(stage=("neck",)), False),
        (Selector(block=(0, 4)), True),
        (Selector(block=(0,)), False),
        (Selector(layer=(2,)), True),
        (Selector(layer=(4,)), False),
        (Selector(kind=("qkv", "mbc_project")), True),
        (Selector(kind=("qkv",)), False),
        (Selector(stage=("stage3",), block=(4,), layer=(2,), kind=("mbc_project",)), True),
        (Selector(stage=("stage3",), block=(4,), layer=(2,), kind=("qkv",)), False),
        (Selector(model=("l1",)), True),  # whose affair the model is: the caller's
    ],
)
def test_a_selector_wants_all_of_its_conditions(selector, matched):
    assert selector.matches(Address("stage3", 4, 2), "mbc_project") is matched


def test_block_zero_is_a_condition():
    assert not Selector(block=(0,), layer=(0,)).matches(Address("stage3", 0, 1), "conv")


def test_a_selector_says_what_it_selects():
    assert str(Selector()) == "all layers"
    assert str(Selector(stage=("neck",), block=(0,))) == "stage=['neck'], block=[0]"


def test_the_kinds_are_those_of_the_vocabulary():
    blocks = "conv resblock fmbc_3x3 fmbc_1x1 mbc_expand mbc_depthwise mbc_project"
    assert list(LAYER_KINDS) == f"{blocks} qkv attention attention_proj neck_in neck_out".split()


def test_the_digest_does_not_count_name_and_description():
    one, other = Scheme("a", (RULE,), "x"), Scheme("b", (RULE,), "y")
    assert one.digest == other.digest
    assert len(one.digest) == 64


def test_the_digest_does_not_depend_on_the_order_of_targets():
    turned = Rule(RULE.select, dict(reversed(RULE.targets.items())))
    assert Scheme("a", (RULE,)).digest == Scheme("a", (turned,)).digest


OTHER_RULES = [
    (),
    (RULE, RULE),
    (Rule(Selector(), RULE.targets),),
    (Rule(Selector(stage=("stage4",)), RULE.targets),),
    (Rule(Selector(stage=("stage3",), model=("l0",)), RULE.targets),),
    (Rule(RULE.select, {"weight": INT8}),),
    (Rule(RULE.select, {"weight": None, "activation": None}),),
    (Rule(RULE.select, {"weight": INT8, "input": None}),),
    *(
        (Rule(RULE.select, {"weight": dataclasses.replace(INT8, **change), "activation": None}),)
        for change in (
            {"format": "int4"},
            {"observer": "omse"},
            {"symmetric": False},
            {"per_channel": False},
            {"quantizer": "log2"},
        )
    ),
]


def test_the_digest_depends_on_everything_in_the_rules():
    digests = {Scheme("a", rules).digest for rules in [(RULE,), *OTHER_RULES]}
    assert len(digests) == 1 + len(OTHER_RULES)


def test_the_digest_depends_on_the_order_of_rules():
    second = Rule(Selector(), {"weight": None})
    assert Scheme("a", (RULE, second)).digest != Scheme("a", (second, RULE)).digest


def test_the_digest_is_the_same_in_every_release():
    """Plans and records on disk name it."""
    assert Scheme("a", (RULE,)).digest.startswith("9db776c14ac5c4e1")
