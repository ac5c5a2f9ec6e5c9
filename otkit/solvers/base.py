"""The loop that runs every solver, and the interface of a solver."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from inspect import signature
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np

from otkit import checks
from otkit.arrays import Array, renewed
from otkit.kernels import shared_by
from otkit.problems.linear import LinearProblem
from otkit.results.outcome import Outcome, Stage, Status
from otkit.solvers.watch import Progress, Watch


@dataclass(frozen=True)
class State:
    """The state of the items of a problem. Steps of a solver return a new state, and only `run` calls them.

    Attributes
    ----------
    f, g : array (B, n), (B, m)
        Potentials of the reduced problem.
    reg : numpy array (B,)
        The regularisation of the current stage.
    status : numpy array of Status or None (B,)
        None for an item that is still running.
    error : numpy array (B,)
    n_iter : numpy array of int (B,)
    stages : tuple of Stage
        The log of the completed stages.
    """

    f: Array
    g: Array
    reg: np.ndarray
    status: np.ndarray
    error: np.ndarray
    n_iter: np.ndarray
    stages: tuple[Stage, ...]

    @property
    def running(self) -> np.ndarray:
        """Indices of the items that are still running."""
        return np.flatnonzero(self.status == None)  # noqa: E711 (elementwise)

    @property
    def gap(self) -> np.ndarray:
        """Width of the last certified interval of each item, relative to its upper end; NaN if there is none."""
        return np.full(self.reg.size, np.nan)

    def ended(self, items: np.ndarray, status: Status) -> Self:
        """The state with a final status for the items of these indices."""
        if not items.size:
            return self
        new = self.status.copy()
        new[items] = status
        return renewed(self, status=new)


def begun(problem: LinearProblem, f: Array, g: Array) -> State:
    """The state before the only step of a solver that takes no others."""
    nothing = np.zeros(problem.items)
    status = np.full(problem.items, None, dtype=object)
    return State(f, g, nothing, status, nothing, np.zeros(problem.items, dtype=np.int64), ())


S = TypeVar("S", bound=State)
_Class = TypeVar("_Class")


class Solver(ABC, Generic[S]):
    """The options of a method, and its steps. A final subclass is a frozen dataclass.

    Attributes
    ----------
    name : str
        The name of the method, for `Result.method`.
    max_iter : int
        Maximum number of iterations over all stages.
    entropic : bool
        Whether the method solves problems with a `reg`, or those without one.
    shares : bool
        Whether several processes can share its work: its passes over all pairs are operations by rows.
    refuses : mapping
        Arguments that do not apply to the method, each with the reason.
    """

    name: ClassVar[str]
    max_iter: int
    entropic: ClassVar[bool] = False
    shares: ClassVar[bool] = False
    refuses: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def init(self, problem: LinearProblem, start: tuple[Array, Array] | None) -> S:
        """The initial state, from potentials of the reduced problem if given."""

    @abstractmethod
    def step(self, problem: LinearProblem, state: S) -> S:
        """The state after a bounded number of iterations of every running item."""

    @abstractmethod
    def finish(self, problem: LinearProblem, state: S, errors: np.ndarray) -> Outcome:
        """The outcome, with the error recomputed."""


def check_options(solver: Solver[Any]) -> None:
    """Check those options of an iterative solver that it has."""
    for name in ("tol", "atol"):
        checks.positive(getattr(solver, name, None), name)
    for name in ("rtol", "stage_tol"):
        checks.positive(getattr(solver, name, None), name, below=1.0)
    for name in ("n_iters", "max_iter", "sweeps", "steps"):
        checks.count(getattr(solver, name, None), name)
    factor = getattr(solver, "factor", 2.0)
    if not (isinstance(factor, (int, float, np.number)) and factor > 1):
        raise ValueError(f"factor must be above 1, got {factor!r}; the regularisation is divided by it")


def given_options(solver: type[Solver[Any]], args: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    """The options passed to a solver class by name, without those that equal their default."""
    defaults = {field.name: field.default for field in fields(solver)}  # type: ignore[arg-type]
    names = list(defaults)
    unknown = set(options) - set(names)
    if unknown or len(args) > len(names):
        raise TypeError(f"{solver.__name__} takes {', '.join(names)}, got {', '.join(unknown) or len(args)}")
    given = {**dict(zip(names, args, strict=False)), **options}
    return {name: value for name, value in given.items() if value != defaults[name]}


def with_signature(solver: type[_Class]) -> type[_Class]:
    """The class with the signature of its ``__init__`` where its ``__new__`` returns other classes too."""
    shown = signature(solver.__init__)
    solver.__signature__ = shown.replace(parameters=list(shown.parameters.values())[1:])  # type: ignore[attr-defined]
    return solver


def run(
    problem: LinearProblem,
    solver: Solver[Any],
    start: tuple[Array, Array] | None = None,
    watch: Watch | None = None,
) -> Outcome:
    """Step a solver until every item has ended, or its watch ends the run. No other loop advances solver states."""
    if shared_by() is not None and not solver.shares:
        raise ValueError(
            f"processes share the methods 'sinkhorn', with a reg, and 'annealing', to an rtol, got {solver.name!r}; "
            "pass reg= or rtol= with method='auto', or leave otkit.sharded"
        )
    watch = watch or Watch.of()
    errors = []
    with watch.over() as told:
        state = solver.init(problem, start)
        while state.running.size:
            state = solver.step(problem, state)
            errors.append(state.error)
            running = state.running
            state = state.ended(running[state.n_iter[running] >= solver.max_iter], Status.MAX_ITER)
            if told(partial(progress, state, watch)):
                state = state.ended(state.running, Status.STOPPED)
    return solver.finish(problem, state, np.array(errors).reshape(-1, problem.items))


def progress(state: State, watch: Watch) -> Progress:
    """The progress of a state, as copies for the callback."""
    return watch.progress(
        n_iter=state.n_iter.copy(),
        error=state.error.copy(),
        reg=state.reg.copy(),
        done=np.array([status is not None for status in state.status]),
        stage=np.bincount(np.array([s.item for s in state.stages], dtype=np.int64), minlength=state.reg.size),
        gap=state.gap,
    )
