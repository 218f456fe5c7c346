import inspect
import subprocess
import sys

import pytest

import quantsam

HEAVY = ("torch", "numba", "scipy", "numpy", "onnxruntime", "openvino", "tensorrt", "huggingface_hub", "PIL")


def in_a_fresh_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_quantsam_loads_nothing_heavy():
    code = f"import sys, quantsam; quantsam.__version__; dir(quantsam); print(*({HEAVY!r} & sys.modules.keys()))"
    assert in_a_fresh_process(code.replace(repr(HEAVY), repr(set(HEAVY)))) == ""


def test_reports_and_results_load_no_torch():
    code = (
        "import sys, quantsam.report.page, quantsam.report.figures, quantsam.results.store, quantsam.results.export, "
        "quantsam.results.compare; print('torch' in sys.modules or 'numba' in sys.modules)"
    )
    assert in_a_fresh_process(code) == "False"


def test_a_record_may_be_used_without_torch():
    code = "import sys; from quantsam import Record, ResultStore, compare, QuantsamError; print('torch' in sys.modules)"
    assert in_a_fresh_process(code) == "False"


@pytest.mark.parametrize("name", quantsam.__all__)
def test_every_public_name_resolves_and_is_documented(name):
    value = getattr(quantsam, name)
    assert value is getattr(quantsam, name)
    assert value.__name__ == name
    assert inspect.getdoc(value)
    assert name in dir(quantsam)


def test_the_list_of_names_is_complete_and_sorted():
    assert set(quantsam.__all__) == set(quantsam._HOMES)
    assert quantsam.__all__ == sorted(quantsam.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'quantsam' has no attribute 'evalute'"):
        quantsam.evalute  # noqa: B018


def test_functions_are_not_hidden_by_the_packages_of_their_kind():
    code = (
        "import quantsam, quantsam.evaluation.evaluator, quantsam.simulation.simulator, quantsam.results.compare\n"
        "from quantsam import *\n"
        "print(*(type(f).__name__ for f in (quantsam.evaluate, quantsam.simulate, quantsam.compare, evaluate)))"
    )
    assert in_a_fresh_process(code) == "function function function function"
