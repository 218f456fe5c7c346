"""Settings of a search are checked when they are made, and a budget may be a text."""

import pytest

from quantsam.errors import InputError
from quantsam.search.budget import Budget
from quantsam.search.settings import SearchSettings


def test_a_budget_may_be_a_text():
    assert SearchSettings(budget="30%").budget == Budget(30, relative=True)
    assert SearchSettings(cost="latency", engine="openvino", budget="12ms").budget == Budget(12)


def test_a_budget_that_is_none_is_refused_at_once():
    with pytest.raises(InputError, match=r"a budget of size must look like 1.5MB, 800kB or 40%, got '12ms'"):
        SearchSettings(budget="12ms")
