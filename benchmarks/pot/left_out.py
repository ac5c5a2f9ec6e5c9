"""POT's tests that are left out, by patterns of file and name, each with the reason."""

_REFUSED = "passes an argument that is refused: "
_DIFFERENT = "tests what POT does and otkit does not: "
_NO_PLAN = f"{_DIFFERENT}numbers for exact marginals of totals 1 and 50, which no plan has"

LEFT_OUT = {
    "test_solvers.py::test_solve_sample_methods*'factored'*": f"{_REFUSED}method='factored', an approximation",
    "test_solvers.py::test_solve_sample_methods*'lowrank'*": f"{_REFUSED}method='lowrank', an approximation",
    "test_solvers.py::test_solve_sample_methods*'nystroem'*": f"{_REFUSED}method='nystroem', an approximation",
    "test_mm.py::test_mm_convergence*": f"{_DIFFERENT}a plan to 1e-5, from which the optimum differs by 2e-5 or more",
    "test_bregman.py::test_nan_warning*": f"{_DIFFERENT}a warning and NaN for reg=0, which is an error here",
    "test_1d_solver.py::test_emd1d_dual_backprop_batch*numpy*": f"{_DIFFERENT}an error for NumPy, which has duals here",
    "test_solvers.py::test_solve_sample_NotImplemented*'lazy': True,*'unbalanced': 1*": (
        f"{_DIFFERENT}an error for lazy unbalanced problems, which are solved here"
    ),
    "test_sinkhorn.py::test_unbalanced_relaxation_parameters[[]*-inf]": _NO_PLAN,
    "test_sinkhorn.py::test_unbalanced_relaxation_parameters_pair*-inf-inf]": _NO_PLAN,
    "test_sinkhorn.py::test_unbalanced_multiple_inputs*": (
        f"{_DIFFERENT}for several histograms, POT solves reg_type='entropy' where 'kl' is asked"
    ),
}
