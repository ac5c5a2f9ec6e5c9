"""The command that runs POT's own tests against `otkit.pot`."""

import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "benchmarks" / "pot" / "run.py"
sys.path.insert(0, str(RUN.parent))

import left_out  # noqa: E402
import run as runner  # noqa: E402

TESTS = """
import numpy as np, ot, pytest
from ot.lp import emd
M = np.array([[0.0, 1.0], [1.0, 0.0]])

def test_of_ours():
    assert ot.emd2([], [], M) == 0

def test_by_another_path():
    assert emd([], [], M).shape == (2, 2)

def test_wrong():
    assert ot.emd2([], [], M) == 1

def test_of_theirs():
    ot.gromov.gromov_wasserstein2(M, M, ot.unif(2), ot.unif(2), "square_loss")

def test_of_neither():
    assert M.shape == (2, 2)

def test_that_skips():
    try:
        ot.solve_sample(M, M, method="lowrank")
    except NotImplementedError:
        pytest.skip("Not implemented")
"""


def test_the_report_counts_each_kind():
    verdicts = {
        "a": ("passed", ""), "b": ("passed", ""), "c": ("other", "calls ot.gromov"), "d": ("left out", "tau="),
        "e": ("skipped", "Not implemented"),
    }  # fmt: skip
    text, right = runner.report(verdicts)
    assert right
    assert text.splitlines() == [
        "left out: 1 tests: tau=",
        "skipped: 1 tests: Not implemented",
        "5 tests collected, 1 of them on functions that otkit.pot does not have",
        "1 left out and 1 that skip what is refused",
        "2 passed of 2",
    ]
    for kind in ("failed", "passes though left out"):
        text, right = runner.report({**verdicts, "f": (kind, "why")})
        assert not right
        assert text.startswith("f: why")
        assert text.endswith("2 passed of 3")


def test_every_reason_says_whose_it_is():
    assert all(why.startswith(("passes an argument", "tests what POT does")) for why in left_out.LEFT_OUT.values())


@pytest.mark.slow
def test_tests_are_told_apart_by_what_they_call(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_ot.py").write_text(TESTS)
    shown = subprocess.run([sys.executable, str(RUN), str(tmp_path)], capture_output=True, text=True, check=False)
    assert shown.returncode == 1
    assert shown.stdout.splitlines()[0].startswith("test_ot.py::test_wrong: AssertionError")
    assert shown.stdout.splitlines()[-4:] == [
        "skipped: 1 tests: Not implemented",
        "6 tests collected, 2 of them on functions that otkit.pot does not have",
        "0 left out and 1 that skip what is refused",
        "2 passed of 3",
    ]
