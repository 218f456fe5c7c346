import dataclasses

import pytest
import torch

from quantsam.errors import SchemeError
from quantsam.quant.formats import FLOAT8_DTYPES, FORMATS, get_format


@pytest.mark.parametrize("bits", range(2, 17))
def test_signed_formats_are_two_s_complement(bits):
    fmt = get_format(f"int{bits}")
    assert (fmt.kind, fmt.num_bits, fmt.signed) == ("int", bits, True)
    assert (fmt.qmin, fmt.qmax) == (-(2**bits) // 2, 2**bits // 2 - 1)
    assert fmt.levels == 2**bits


@pytest.mark.parametrize("bits", range(2, 17))
def test_unsigned_formats_start_at_zero(bits):
    fmt = get_format(f"uint{bits}")
    assert (fmt.kind, fmt.num_bits, fmt.signed) == ("int", bits, False)
    assert (fmt.qmin, fmt.qmax) == (0, 2**bits - 1)
    assert fmt.levels == 2**bits


@pytest.mark.parametrize(
    ("name", "bits", "low", "high"),
    [
        ("int8", 8, -128, 127),
        ("uint8", 8, 0, 255),
        ("int2", 2, -2, 1),
        ("uint4", 4, 0, 15),
        ("int16", 16, -32768, 32767),
    ],
)
def test_well_known_ranges(name, bits, low, high):
    fmt = FORMATS[name]
    assert (fmt.num_bits, fmt.qmin, fmt.qmax) == (bits, low, high)


@pytest.mark.parametrize(("name", "largest"), [("fp8_e4m3", 448.0), ("fp8_e5m2", 57344.0)])
def test_float8_limits(name, largest):
    fmt = get_format(name)
    assert (fmt.kind, fmt.num_bits, fmt.signed, fmt.qmin, fmt.qmax) == ("float", 8, True, -largest, largest)
    assert torch.tensor(largest).to(FLOAT8_DTYPES[name]).float().item() == largest


def test_there_are_no_other_formats_and_each_knows_its_name():
    integers = {f"{sign}int{bits}" for sign in ("", "u") for bits in range(2, 17)}
    assert set(FORMATS) == integers | {"fp8_e4m3", "fp8_e5m2"}
    assert all(name == fmt.name for name, fmt in FORMATS.items())


def test_a_format_is_a_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FORMATS["int8"].qmax = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", ["imt8", "int1", "int17", "uint32", "INT8", "float", "", "fp8"])
def test_unknown_name_is_refused_with_the_rule_and_the_value(name):
    with pytest.raises(SchemeError) as caught:
        get_format(name)
    message = str(caught.value)
    assert message.startswith(f"format must be int2..int16, uint2..uint16, fp8_e4m3 or fp8_e5m2, got {name!r}: ")
    assert "\n" not in message


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(SchemeError, match=r"did you mean .*'int8'"):
        get_format("imt8")
    with pytest.raises(SchemeError, match=r"did you mean 'fp8_e4m3'"):
        get_format("fp8_e4m3fn")
