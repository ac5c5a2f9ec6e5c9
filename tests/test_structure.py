"""What the project promises about its structure: a reader finds things, and nothing is long."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import otkit

ROOT = Path(__file__).parent.parent
FILES = [path for room in ("otkit", "tests", "benchmarks") for path in sorted((ROOT / room).rglob("*.py"))]
LONGEST_FILE, LONGEST_FUNCTION, PARAMETERS = 400, 60, 8
# Their arguments are those of their field: POT's, torch's, or a loss's.
PUBLIC = {
    *("solve", "solve_sample", "solve_grid", "wasserstein", "sliced_wasserstein", "sinkhorn_divergence", "pairwise"),
    *("barycenter", "certify", "assign", "coupled", "__init__"),
    *("emd", "emd2", "emd_1d", "emd2_1d", "emd2_lazy", "sinkhorn", "sinkhorn2", "sinkhorn_unbalanced"),
    *("sinkhorn_unbalanced2", "sliced_wasserstein_distance", "max_sliced_wasserstein_distance"),
    *("empirical_sinkhorn", "empirical_sinkhorn2", "empirical_sinkhorn_divergence", "free_support_barycenter"),
    *("barycenter_debiased", "mm_unbalanced", "mm_unbalanced2", "lbfgsb_unbalanced", "lbfgsb_unbalanced2"),
    *("entropic_partial_wasserstein", "entropic_partial_wasserstein_logscale"),
}


def functions(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def length(function):
    """Lines without the docstring."""
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str)
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if documented else 0)


def parameters(function):
    names = [argument.arg for argument in function.args.posonlyargs + function.args.args + function.args.kwonlyargs]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def test_files_and_functions_are_short():
    files = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {path: lines for path, lines in files.items() if lines > LONGEST_FILE} == {}
    long = [(path.name, f.name, length(f)) for path in FILES for f in functions(path) if length(f) > LONGEST_FUNCTION]
    assert long == []


def test_no_constant_is_set_twice():
    # The later one would be that of all functions, those above it included.
    for path in FILES:
        lines = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.Assign)]
        targets = [node for line in lines for target in line.targets for node in ast.walk(target)]
        names = [node.id for node in targets if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
        assert len(names) == len(set(names)), f"{path}: {sorted(n for n in set(names) if names.count(n) > 1)}"


def test_functions_have_few_parameters():
    compiled = ROOT / "otkit" / "kernels"
    readable = [path for path in FILES if path.is_relative_to(ROOT / "otkit") and not path.is_relative_to(compiled)]
    many = [(path.name, f.name) for path in readable for f in functions(path) if parameters(f) > PARAMETERS]
    assert [name for name in many if name[1] not in PUBLIC] == []


def test_every_room_is_in_the_table_of_contributing():
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = [path for path in (ROOT / "otkit").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    names = {path.name if path.suffix else f"{path.name}/" for path in rooms} - {"__init__.py", "__main__.py"}
    assert names == set(re.findall(r"`(\w+\.py|\w+/)`", table.partition("| room |")[2].partition("\n\n")[0])) & names
    files = {path.name for path in (ROOT / "otkit").rglob("*.py")}
    assert set(re.findall(r"`(\w+\.py)`", table.partition("| room |")[2].partition("## Rules")[0])) <= files | {
        "wasserstein.py", "pairwise.py"
    }  # fmt: skip


def test_contracts_name_kernels_exactly():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "otkit.kernels.*" not in text
    assert "otkit.kernels.**" not in text


@pytest.mark.parametrize("reg", [None, 0.1])
def test_a_result_lists_what_is_for_users(reg):
    public = [name for name in dir(otkit.solve(np.eye(2), reg=reg)) if not name.startswith("_")]
    assert public == sorted([
        "status", "converged", "n_iter", "success", "message", "nit", "error", "tol", "errors", "stages", "rescaled", "method", "kernel",
        "value", "value_linear", "value_reg", "value_marginal", "value_dual",
        "f", "g", "potentials", "price", "plan", "plan_sparse", "marginals", "apply", "apply_t", "barycentric", "transport", "sample",
        "lower", "upper", "gap",
    ])  # fmt: skip


def test_the_picture_of_the_readme_is_what_its_script_draws(tmp_path):
    path = tmp_path / "plan.svg"
    subprocess.run([sys.executable, str(ROOT / "examples" / "readme_picture.py"), str(path)], check=True, cwd=ROOT)
    assert path.read_bytes() == (ROOT / "docs" / "_static" / "plan.svg").read_bytes()
