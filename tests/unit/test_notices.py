import warnings

import pytest

from quantsam.notices import Notice, notice, shown_by


def tell(*texts):
    for text in texts:
        notice(text)


def test_a_program_gets_a_warning():
    with pytest.warns(Notice, match="two boxes are odd"):
        notice("two boxes are odd")


def test_each_is_shown_once_and_of_many_alike_the_number():
    shown = []
    with shown_by(shown.append):
        tell("a", "b", "a", "c\n d", "e", "f", "e")
        notice("of another kind")
    assert shown == ["a", "b", "c d", "of another kind", "and 2 more like: a"]


def test_what_was_not_shown_is_told_of_where_an_error_ends_the_command():
    shown = []

    def fail():
        with shown_by(shown.append):
            tell("a", "b", "c", "d")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert shown[-1] == "and 1 more like: a"


def test_other_warnings_go_their_way():
    with pytest.warns(DeprecationWarning, match="old"), shown_by(pytest.fail):
        warnings.warn("old", DeprecationWarning, stacklevel=1)
