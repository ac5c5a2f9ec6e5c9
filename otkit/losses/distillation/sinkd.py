"""Distillation by optimal transport between the predictions of a student and of its teacher."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from otkit import arrays, checks
from otkit.kernels.numba.divergences import TV, divergences
from otkit.losses import processes
from otkit.losses.chunks import Chunk, chunk_rows, chunk_values, row_values, upcast
from otkit.losses.distillation.l1 import l1_cost
from otkit.losses.distillation.transport import Costs, RowTransport, l1_costs
from otkit.losses.head import Head
from otkit.losses.rows import REDUCTIONS, Stats, check_choice, expected_cotangent, reduce, row_masks, scatter, uniform
from otkit.losses.sequences import aligned_rows, by_sequence, filled, table
from otkit.losses.softmax import softened
from otkit.losses.tensors import check_option, shown
from otkit.losses.topk.cost import own_cost, topk_cost
from otkit.losses.topk.entries import TopK

LEVELS = ("batch", "token", "vocab")
OBJECTIVES = ("sharp", "regularized", "divergence")

Pair = tuple[Tensor, Tensor]
Logits = Tensor | Head
Seen = list[Stats] | None


class Measured(NamedTuple):
    """The values of problems of mass 1, and the number of the student's rows in each."""

    values: Tensor
    counts: Tensor


class SinKDLoss(nn.Module):
    """The transport cost between the softened predictions of a student and those of its teacher, at L1 distances.

    Parameters
    ----------
    level : {"batch", "token", "vocab"}
        The points of a problem. "batch": all rows, in one problem, as in the paper; every position of logits
        (batch, length, V) is a row. "token": the positions of a sequence, one problem for each. "vocab": the entries
        of a row, one problem for each, at the cost 2 for any move. Its value is ‖p − q‖₁, the sample-wise loss of the
        released code: a divergence, without a solver and without `reg`. `VocabOTLoss` has costs by the similarity of
        entries.
    tau : float or Tensor
        The temperature of both softmaxes. Tensors are as in `SoftTargetLoss`.
    reg : float
        The regularisation, in units of the L1 distance, which is at most 2.
    n_iters : int, optional
        The number of iterations, rows first and columns last; 20 unless there is a `tol`.
    tol : float, optional
        The error to reach, as in `otkit.solve`, in place of a number of iterations.
    objective : {"sharp", "regularized", "divergence"}
        "sharp": ⟨C, P⟩, as in the paper. "regularized": ⟨C, P⟩ + reg·KL(P | a⊗b). "divergence": the latter less half
        of the cost of either side with itself. It is 0 for equal predictions; once converged, only for these.
    mass : {"unit", "batch"}
        The total of a plan: 1, or the number of the student's rows, as in the paper.
    plan : {"unrolled", "implicit", "detached"}, optional
        The gradient through the plan: by all iterations (the default with `n_iters`), by the implicit function theorem
        (the default with `tol`), or none.
    reduction : {"mean", "sum", "none"}
        The reduction over the problems; level "batch" has only one.
    scale : float
        A factor of the loss.
    shift : bool
        Whether row t of a sequence predicts token t + 1, so that mask and labels at t + 1 are about row t.
    ignore_index : int
        The label of rows that take no part.
    gather : bool
        At level "batch": gather the rows of all processes of `torch.distributed` in one problem. Every process then
        returns the same loss. Its gradient is the mean of theirs, which DistributedDataParallel computes.
    chunk_size : int, optional
        The number of rows in a chunk of problems; by default it follows from the vocabulary.
    check : bool
        Whether to raise where logits of a row that takes part are NaN or +inf. By default the loss is then NaN.

    Raises
    ------
    ValueError
        If an option makes no sense, or two of them do not go together.

    Notes
    -----
    Cui et al., SinKD (2024); `paper` is the loss of their released code. A problem does not depend on the order of the
    student's rows: add a loss that does. With ``n_iters`` the loss of equal predictions is not 0 and depends on `reg`,
    unless it is the divergence.

    The teacher gets no gradient. Half precision is computed in float32, also under autocast.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import SinKDLoss
    >>> student = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3]], requires_grad=True)
    >>> teacher = torch.tensor([[3.0, -1.0, 0.0], [0.5, 1.5, -0.5]])
    >>> loss = SinKDLoss()(student, teacher)
    >>> loss.backward()
    >>> round(float(loss.detach()), 4), student.grad[0]
    (0.3623, tensor([-0.0968,  0.1138, -0.0170]))
    """

    def __init__(
        self,
        level: str = "batch",
        tau: float | Tensor = 2.0,
        reg: float = 0.1,
        n_iters: int | None = None,
        tol: float | None = None,
        objective: str = "sharp",
        mass: str = "unit",
        plan: str | None = None,
        reduction: str = "mean",
        scale: float = 1.0,
        *,
        shift: bool = False,
        ignore_index: int = -100,
        gather: bool = False,
        chunk_size: int | None = None,
        check: bool = False,
    ) -> None:
        super().__init__()
        check_option("tau", tau)
        numbers = {"reg": reg, "n_iters": n_iters, "tol": tol, "scale": scale, "chunk_size": chunk_size}
        for name, value in numbers.items():
            checks.positive(value, name)
        check_choice("level", level, LEVELS)
        check_choice("objective", objective, OBJECTIVES)
        check_choice("mass", mass, ("unit", "batch"))
        check_choice("reduction", reduction, REDUCTIONS)
        if n_iters is not None and (tol is not None or int(n_iters) != n_iters):
            raise ValueError(
                f"n_iters must be a whole number, and without tol=, got n_iters={n_iters!r} and tol={tol!r}; pass one"
            )
        if level == "vocab" and (n_iters, tol, plan) != (None, None, None):
            raise ValueError(
                "level='vocab' has a closed form, without iterations and without a plan, got "
                f"n_iters={n_iters!r}, tol={tol!r} and plan={plan!r}; leave them out, or use VocabOTLoss"
            )
        plans = ("unrolled", "detached") if tol is None else ("implicit", "detached")
        plan = plans[0] if plan is None else plan
        if plan not in plans:
            raise ValueError(
                f"plan must be one of {', '.join(plans)} with {'n_iters' if tol is None else 'tol'}=, got {plan!r}: "
                "n_iters= is unrolled, and a tolerance (tol=1e-6) is differentiated implicitly"
            )
        if gather and level != "batch":
            raise ValueError(
                f"gather=True is for level='batch', one problem of all rows, got level={level!r}; leave gather out"
            )
        self.level, self.tau, self.reg, self.tol, self.chunk_size = level, tau, reg, tol, chunk_size
        self.n_iters = (n_iters or 20) if tol is None else None
        self.objective, self.mass, self.plan, self.reduction, self.scale = objective, mass, plan, reduction, scale
        self.shift, self.ignore_index, self.gather, self.check = shift, ignore_index, gather, check

    @classmethod
    def paper(cls) -> SinKDLoss:
        """The loss of the released code for BERT, with its mass, its sum over the batch and its factor of 0.001.

        Examples
        --------
        >>> import torch
        >>> from otkit.losses import SinKDLoss
        >>> loss = SinKDLoss.paper()(torch.tensor([[2.0, 0.5, -1.0]]), torch.tensor([[3.0, -1.0, 0.0]]))
        >>> round(float(loss), 7)
        0.000358
        """
        return cls(mass="batch", reduction="sum", scale=1e-3)

    @arrays.eager
    def forward(
        self,
        student_logits: Tensor | Head,
        teacher_logits: Tensor | TopK | Head,
        mask: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        teacher_mask: Tensor | None = None,
        teacher_labels: Tensor | None = None,
        num_items_in_batch: Tensor | float | None = None,
        return_stats: bool = False,
    ) -> Tensor | tuple[Tensor, Stats]:
        """The loss of a batch.

        Parameters
        ----------
        student_logits : Tensor (rows, V) or (batch, length, V), or Head
        teacher_logits : Tensor, TopK or Head
            Logits of the same vocabulary; at the levels "batch" and "token" of any number of rows.
        mask : Tensor (rows,) or (batch, length), optional
            0 where a row takes no part, whatever is in it. Whole numbers above 1 number the documents that are packed
            in a sequence: each is a sequence then, and without a reduction one value is for each document with a row.
        labels : Tensor of int (rows,) or (batch, length), optional
            The same by labels: `ignore_index` where a row takes no part.
        teacher_mask, teacher_labels : Tensor, optional
            Those of the teacher's rows; by default those of the student's.
        num_items_in_batch : int or Tensor, optional
            The divisor of the sum over all rows in place of a mean: the rows of all steps of an accumulated gradient.
            Every problem then counts by its rows.
        return_stats : bool
            Whether to return statistics too.

        Returns
        -------
        Tensor
            A number; without a reduction one for every problem, at level "vocab" for every row, 0 where it takes no
            part.
        dict of str to Tensor
            With `return_stats`: "rows", and means over the problems: "error" of the marginals, "n_iter", "cost" (the
            mean over all pairs, divided by `reg`) and "entropy" of the plan.

        Raises
        ------
        ValueError, TypeError
            If shapes do not fit together, or with ``check=True`` as there.
        """
        logits, given = (student_logits, teacher_logits), ((mask, labels), (teacher_mask, teacher_labels))
        keep = row_masks(self, logits, *given, num_items_in_batch)
        self._check_pair(student_logits, teacher_logits)
        check_option("tau", self.tau)
        seen: Seen = [] if return_stats else None
        with torch.autocast(student_logits.device.type, enabled=False):
            tokens = self._tokens if keep[0].dtype == torch.bool else self._documents
            measure = {"batch": self._batch, "token": tokens, "vocab": self._entries}[self.level]
            measured = measure(student_logits, teacher_logits.detach(), keep, seen)
            values = measured.values * self.scale
            if self.mass == "batch" and num_items_in_batch is None:
                values = values * measured.counts
            loss = reduce(values, measured.counts, self.reduction, num_items_in_batch)
        if seen is None:
            return loss
        means = {name: torch.stack([s[name] for s in seen]).mean() for name in (seen[0] if seen else {})}
        return loss, {"rows": measured.counts.sum(), **means}

    def _check_pair(self, student: Logits, teacher: Logits | TopK) -> None:
        """Complain about options that need dense logits."""
        if self._learned and isinstance(teacher, TopK) and self.level != "vocab":
            raise ValueError("a tau with a gradient needs all logits of the teacher, got a TopK; pass a number as tau")
        if self.gather and not (isinstance(student, Tensor) and isinstance(teacher, Tensor)):
            raise ValueError("gather=True is for tensors of logits, got a TopK or a Head; pass gather=False")
        divergence = self.objective == "divergence" and self.level != "vocab"
        if self.level == "batch" and isinstance(student, Head) and (divergence or isinstance(teacher, Head)):
            raise ValueError(
                "a Head at level='batch' forms distances to the teacher's rows, which must be in memory, and none "
                "between its own rows; pass a TopK or a tensor of the teacher, and another objective than 'divergence'"
            )
        if divergence and isinstance(teacher, TopK) and teacher.tail == "one bucket":
            raise ValueError(
                "objective='divergence' needs distances between rows of the teacher, which tail='one bucket' does not "
                "tell; pass tail='renormalise' or tail='uniform', or another objective"
            )

    def _batch(self, student: Logits, teacher: Logits | TopK, keep: Pair, seen: Seen) -> Measured:
        """One problem of all rows."""
        if isinstance(student, Head):
            return self._batch_of_head(student, teacher, keep, seen)
        own, other = student.reshape(-1, student.shape[-1]), teacher.reshape(-1, teacher.shape[-1])
        rows, theirs = (
            slice(None) if there is None or there.all() else there.flatten().nonzero()[:, 0] for there in keep
        )
        y = upcast(other[theirs])
        before, after, members = own[:0], own[:0], 1
        if self.gather and isinstance(y, Tensor):
            members = processes.size(None)
            before, after = processes.other_rows(own[rows])
            first, last = processes.other_rows(y)
            y = torch.cat([first, y, last])
        count = sum(len(part) for part in (before, own[rows], after))
        if not count or not len(y):
            nothing = chunk_values(own, [Chunk(slice(0, 0), 0, lambda x: x.sum(-1))])
            return Measured(nothing.sum()[None], own.new_zeros(1))

        def loss(x: Tensor) -> Tensor:
            if members > 1 and x.requires_grad:
                # Every process returns the loss of all: the mean of their gradients is too small by their number.
                x = x.clone()
                x.register_hook(lambda gradient: gradient * members)
            x = torch.cat([upcast(before), x, upcast(after)]) if len(before) + len(after) else x
            a, b = (x.new_full((1, len(v)), 1 / len(v)) for v in (x, y))
            return self._transport(self._costs(x[None], y.reshape(1, *y.shape)), a, b, seen)

        owner = torch.zeros(len(own[rows]), dtype=torch.long, device=own.device)
        return Measured(
            chunk_values(own, [Chunk(rows, 1, loss, owner)], self._learned), upcast(own.new_full((1,), count))
        )

    def _batch_of_head(self, student: Head, teacher: Logits | TopK, keep: Pair, seen: Seen) -> Measured:
        """One problem of all rows, whose distances to the teacher's are formed some rows at a time."""
        own, other = student.reshape(-1, student.shape[-1]), teacher.reshape(-1, teacher.shape[-1])
        rows, theirs = (there.flatten().nonzero()[:, 0] for there in keep)
        if not len(rows) or not len(theirs):
            nothing = chunk_values(own, [Chunk(rows[:0], 0, lambda x: x.sum(-1))])
            return Measured(nothing.sum()[None], nothing.new_zeros(1))
        y = upcast(other[theirs])
        q = y if isinstance(y, TopK) else softened(y, self.tau)

        def distances(x: Tensor) -> Tensor:
            if isinstance(q, TopK):
                return topk_cost(x[None], q.reshape(1, *q.shape), float(self.tau))[0]
            return l1_cost(softened(x, self.tau), q)

        parts = rows.split(chunk_rows(self.chunk_size, own))
        C = chunk_values(own, [Chunk(part, len(part), distances) for part in parts], self._learned)
        a, b = (C.new_full((1, size), 1 / size) for size in C.shape)
        values = self._transport(Costs(C[None]), a, b, seen)
        return Measured(values, C.new_full((1,), len(rows)))

    def _tokens(self, student: Logits, teacher: Logits | TopK, keep: Pair, seen: Seen) -> Measured:
        """One problem for the rows of each sequence, some sequences at a time."""
        (n, V), m = student.shape[-2:], teacher.shape[-2]
        own, other = student.reshape(-1, V), teacher.reshape(-1, m, teacher.shape[-1])
        keeps = keep[0].reshape(-1, n), keep[1].reshape(-1, m)
        size = max(1, chunk_rows(self.chunk_size, own) // max(n, m))
        chunks = []
        for low in range(0, len(other), size):
            part = slice(low, min(low + size, len(other)))

            def loss(x: Tensor, part: slice = part) -> Tensor:
                return self._sequences(x.reshape(-1, n, V), upcast(other[part]), (keeps[0][part], keeps[1][part]), seen)

            owner = torch.arange(part.stop - low, device=own.device)[:, None].expand(-1, n).flatten()
            chunks.append(Chunk(slice(low * n, part.stop * n), part.stop - low, loss, owner))
        values = chunk_values(own, chunks, self._learned)
        shape = student.shape[:-2]
        return Measured(values.reshape(shape), keeps[0].sum(-1).to(values).reshape(shape))

    def _documents(self, student: Logits, teacher: Logits | TopK, keep: Pair, seen: Seen) -> Measured:
        """One problem for the rows of each packed document, some documents at a time."""
        own, other = student.reshape(-1, student.shape[-1]), teacher.reshape(-1, teacher.shape[-1])
        rows = [side.parts() for side in by_sequence(*keep)]
        counts = [len(document) for document in rows[0]]
        step = max(1, chunk_rows(self.chunk_size, own) // max([1, *counts, *map(len, rows[1])]))
        chunks = []
        for low in range(0, len(counts), step):
            part = slice(low, low + step)
            mine, theirs = (table(v[part], -1) for v in rows)

            def loss(x: Tensor, part: slice = part, there: Tensor = mine >= 0, theirs: Tensor = theirs) -> Tensor:
                x, y = table(x.split(counts[part]), 0.0), upcast(other[theirs.clamp_min(0)])
                return self._sequences(x, y, (there, theirs >= 0), seen)

            chunks.append(Chunk(mine[mine >= 0], len(mine), loss, (mine >= 0).nonzero()[:, 0]))
        values = chunk_values(own, chunks, self._learned)
        return Measured(values, values.new_tensor(counts))

    def _sequences(self, x: Tensor, y: Tensor | TopK, keep: Pair, seen: Seen) -> Tensor:
        """The values of sequences in which some positions are kept."""
        empty = ~(keep[0].any(-1) & keep[1].any(-1))
        a, b = (uniform(there | empty[:, None], x.dtype) for there in keep)
        x, y = filled(x, keep[0]), filled(y, keep[1])
        values = self._transport(self._costs(x, y), a, b, seen)
        return torch.where(empty, 0.0, values)

    def _entries(self, student: Logits, teacher: Logits | TopK, keep: Pair, seen: Seen) -> Measured:
        """One problem for the entries of each row."""
        rows, _ = aligned_rows(*keep)

        def loss(x: Tensor, y: Tensor | TopK) -> Tensor:
            x, y = y.against(x, self.tau) if isinstance(y, TopK) else (x, y)
            return (softened(x, self.tau) - softened(y, self.tau)).abs().sum(-1)

        # ‖p − q‖₁ is twice the total variation.
        compiled = None if self._learned else partial(divergences, TV, 1 / float(self.tau), 2.0)
        expected = self.scale * expected_cotangent(self.reduction, None, len(rows[0]))
        values = row_values(loss, (student, teacher), rows, self.chunk_size, self._learned, compiled, expected)
        if self.reduction == "none":
            values = scatter(values, rows[0], keep[0])
        return Measured(values, torch.ones_like(values))

    def _costs(self, x: Tensor, y: Tensor | TopK) -> Costs:
        """The distances between softened rows of logits ``(B, n, V)`` and ``(B, m, V)``."""
        if isinstance(y, Tensor):
            return l1_costs(softened(x, self.tau), softened(y, self.tau))

        def student() -> Tensor:
            p = softened(x, self.tau)
            return l1_cost(p, p)

        return Costs(topk_cost(x, y, float(self.tau)), student, lambda: own_cost(y, float(self.tau), x.shape[-1]))

    @property
    def _learned(self) -> bool:
        """Whether the temperature has a gradient."""
        return isinstance(self.tau, Tensor) and self.tau.requires_grad

    @property
    def _transport(self) -> RowTransport:
        return RowTransport(self.reg, self.n_iters, self.tol, self.objective, self.plan == "detached")

    def extra_repr(self) -> str:
        until = f"n_iters={self.n_iters}" if self.tol is None else f"tol={self.tol:g}"
        return (
            f"level={self.level!r}, tau={shown(self.tau)}, reg={self.reg:g}, {until}, objective={self.objective!r}, "
            f"mass={self.mass!r}, plan={self.plan!r}, reduction={self.reduction!r}, scale={self.scale:g}"
        )
