import pytest

from quantsam import errors
from quantsam.errors import InputError, QuantsamError, nearest

ALL = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, QuantsamError)]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_is_caught_as_one_and_has_an_exit_code(kind):
    with pytest.raises(QuantsamError) as caught:
        raise kind("said")
    assert str(caught.value) == "said"
    assert caught.value.exit_code == (2 if issubclass(kind, InputError) else 1)


def test_they_are_not_taken_for_python_s_own():
    assert len(ALL) >= 10
    assert not any(issubclass(kind, (ValueError, OSError, RuntimeError)) for kind in ALL)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("imt8", "did you mean 'int8'?"),
        ("INT8", "known are: fp32, int16, int8"),  # case is the caller's to mend
        ("int", "did you mean 'int8' or 'int16'?"),
        ("", "known are: fp32, int16, int8"),
        ("fp32", "did you mean 'fp32'?"),
    ],
)
def test_nearest(name, hint):
    assert nearest(name, {"int8", "int16", "fp32"}) == hint


def test_nearest_names_at_most_three_and_takes_any_iterable():
    assert nearest("stage1", (f"stage{i}" for i in range(9))).count("'") == 6
    assert nearest("x", ["b", "a"]) == "known are: a, b"
