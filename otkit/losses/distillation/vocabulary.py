"""Distillation between two vocabularies by sorted probabilities, and within one by transport."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from otkit import checks
from otkit.autograd.torch import once
from otkit.losses.distillation.vocabulary_cost import VocabularyCost
from otkit.losses.rows import RowLoss, check_choice
from otkit.losses.tensors import check_option, shown
from otkit.losses.topk.entries import TopK


class ULDLoss(RowLoss):
    """Universal logit distillation: the L1 distance of sorted probabilities, for two vocabularies.

    Parameters
    ----------
    student_temperature, teacher_temperature : float or Tensor
        The temperatures of the softmaxes. Tensors are as in `SoftTargetLoss`.
    topk : int, optional
        Compare only the `topk` largest probabilities, and the sums of the rest. This sorts less, and gives at most the
        whole loss.
    average : {"rows", "sequences"}
        What a mean is over: all rows, or, as in the released code, the sequences, each with the mean of its rows. With
        `num_items_in_batch` every sequence counts by its rows, so that the two are one.
    reduction, shift, ignore_index, chunk_size, check
        As in `SinKDLoss`.

    Raises
    ------
    ValueError
        If an option makes no sense.

    Notes
    -----
    Boizard et al. (2024): the transport between two vocabularies at one cost for all moves, since nothing relates their
    entries. In each sequence the rows of both that take part are paired from the first on, until one has no more.

    The gradient is computed in the forward pass, some rows at a time. Beside the logits only the gradient has their
    size: there is no copy of the teacher's logits, which get no gradient. Half precision is computed in float32.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import ULDLoss
    >>> student, teacher = torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([[0.1, 0.5, 0.3, 0.1]]).log()
    >>> round(float(ULDLoss()(student, teacher)), 4)
    0.4
    """

    one_vocabulary = False
    temperatures = ("student_temperature", "teacher_temperature")

    def __init__(
        self,
        student_temperature: float | Tensor = 1.0,
        teacher_temperature: float | Tensor = 1.0,
        topk: int | None = None,
        reduction: str = "mean",
        *,
        average: str = "rows",
        shift: bool = False,
        ignore_index: int = -100,
        chunk_size: int | None = None,
        check: bool = False,
    ) -> None:
        super().__init__(reduction, shift, ignore_index, chunk_size, check)
        check_option("student_temperature", student_temperature)
        check_option("teacher_temperature", teacher_temperature)
        checks.positive(topk, "topk")
        check_choice("average", average, ("rows", "sequences"))
        if average == "sequences" and reduction != "mean":
            raise ValueError(f"average='sequences' is of reduction='mean', got {reduction!r}; leave one of them out")
        self.average = average
        self.student_temperature, self.teacher_temperature, self.topk = student_temperature, teacher_temperature, topk

    def rows(self, student: Tensor, teacher: Tensor) -> Tensor:
        p = torch.softmax(student / self.student_temperature, -1)
        q = torch.softmax(teacher / self.teacher_temperature, -1)
        if self.topk is None:
            large = [v.sort(-1, descending=True).values for v in (p, q)]
        else:
            large = [v.topk(min(self.topk, v.shape[-1]), -1).values for v in (p, q)]
        width = max(v.shape[-1] for v in large)
        top_p, top_q = (torch.nn.functional.pad(v, (0, width - v.shape[-1])) for v in large)
        total = (top_p - top_q).abs().sum(-1)
        return total if self.topk is None else total + (top_p.sum(-1) - top_q.sum(-1)).abs()

    def rows_of_known(self, student: Tensor, teacher: TopK) -> Tensor:
        if teacher.tail != "one bucket":
            size = teacher.vocab_size if teacher.tail == "uniform" else None
            return self.rows(student, teacher.logprobs if size is None else teacher.logits(size))
        width = min(self.topk or teacher.shape[-1], teacher.shape[-1], student.shape[-1])
        leading = teacher.logprobs.topk(width, -1).values
        ids = student.topk(width, -1).indices.masked_fill(leading == -torch.inf, -1)
        # The student's leading entries in the place of the teacher's, the largest for the largest.
        x, y = TopK(ids, leading, teacher.tail, check=False).against(student, 1.0)
        p, q = torch.softmax(x / self.student_temperature, -1), torch.softmax(y / self.teacher_temperature, -1)
        return (p - q).abs().sum(-1)

    def reduced(self, values: Tensor, sizes: Tensor, num_items: Tensor | float | None) -> Tensor:
        if self.average == "rows" or num_items is not None:
            return super().reduced(values, sizes, num_items)
        return (values / sizes.repeat_interleave(sizes)).sum() / max(1, len(sizes))

    def check_tail(self, teacher: TopK) -> None:
        if teacher.tail == "uniform" and teacher.vocab_size is None:
            raise ValueError(
                "tail='uniform' needs the size of the teacher's vocabulary where it may be another than the student's; "
                "pass vocab_size= to the TopK"
            )

    def extra_repr(self) -> str:
        return (
            f"student_temperature={shown(self.student_temperature)}, "
            f"teacher_temperature={shown(self.teacher_temperature)}, "
            f"topk={self.topk}, average={self.average!r}, reduction={self.reduction!r}"
        )


class VocabOTLoss(RowLoss):
    """The Sinkhorn divergence between two distributions over one vocabulary, at costs by the similarity of entries.

    Parameters
    ----------
    cost : VocabularyCost
        The costs between entries: `VocabularyCost.nearest` of token embeddings, or `VocabularyCost.dense`.
    reg : float
        The regularisation, in units of the cost.
    n_iters : int
        The number of iterations of each of the three problems of a divergence.
    unbalanced : float, optional
        The penalty of a unit of KL divergence of the masses, in units of the cost. None asks for exact marginals. A
        sparse cost seldom has a plan with these: the iterations then do not converge, and the loss is that after
        `n_iters`.
    tau : float or Tensor
        The temperature of both softmaxes. A tensor is as in `SoftTargetLoss`.
    reduction, shift, ignore_index, chunk_size, check
        As in `SinKDLoss`.

    Raises
    ------
    ValueError
        If an option makes no sense.

    Notes
    -----
    WASD (2026) with nearest neighbours of embeddings, and WKD-L (Lv et al. 2024) with similarities of classes. The
    gradient by probabilities is that of the divergence by its weights: the difference of two potentials (envelope
    theorem). The iterations have no backward pass.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import VocabOTLoss, VocabularyCost
    >>> cost = VocabularyCost.dense(torch.tensor([[0.0, 0.1, 1.0], [0.1, 0.0, 1.0], [1.0, 1.0, 0.0]]))
    >>> loss = VocabOTLoss(cost, reg=0.1, n_iters=100, tau=1.0)
    >>> teacher, near, far = (torch.tensor([p]).log() for p in ([0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]))
    >>> [round(float(loss(v, teacher)), 3) for v in (near, far)]
    [0.056, 0.659]
    """

    temperatures = ("tau",)

    def __init__(
        self,
        cost: VocabularyCost,
        reg: float = 0.05,
        n_iters: int = 10,
        unbalanced: float | None = None,
        tau: float | Tensor = 2.0,
        reduction: str = "mean",
        *,
        shift: bool = False,
        ignore_index: int = -100,
        chunk_size: int | None = None,
        check: bool = False,
    ) -> None:
        super().__init__(reduction, shift, ignore_index, chunk_size, check)
        for name, value in {"reg": reg, "n_iters": n_iters, "unbalanced": unbalanced}.items():
            checks.positive(value, name)
        check_option("tau", tau)
        if not isinstance(cost, VocabularyCost):
            raise ValueError(
                f"cost must be a VocabularyCost, got {type(cost).__name__}; VocabularyCost.dense(matrix) makes one"
            )
        self.reg, self.n_iters, self.unbalanced, self.tau = reg, int(n_iters), unbalanced, tau
        for name, part in zip(("first", "column", "arc"), (cost.first, cost.column, cost.cost), strict=True):
            self.register_buffer(name, part, persistent=False)

    @property
    def cost(self) -> VocabularyCost:
        """The costs, on the device of the module."""
        return VocabularyCost(self.first, self.column, self.arc)  # type: ignore[arg-type]

    def rows(self, student: Tensor, teacher: Tensor) -> Tensor:
        size = len(self.first) - 1  # type: ignore[arg-type]
        if student.shape[-1] != size:
            raise ValueError(
                f"logits must have {size} entries, as many as the cost, got {student.shape[-1]}; cut off padding, or "
                "make a cost of as many"
            )
        p, q = torch.softmax(student / self.tau, -1), torch.softmax(teacher / self.tau, -1)
        with torch.no_grad():
            found = self.cost.divergence(p, q, self.reg, self.n_iters, self.unbalanced)
        rows: Tensor = _Known.apply(p, q, *found)
        return rows

    def check_tail(self, teacher: TopK) -> None:
        if teacher.tail == "one bucket":
            raise ValueError(
                "tail='one bucket' has no cost to the entries of a vocabulary; pass tail='renormalise' or "
                "tail='uniform' for VocabOTLoss"
            )

    def extra_repr(self) -> str:
        return (
            f"reg={self.reg:g}, n_iters={self.n_iters}, unbalanced={self.unbalanced}, tau={shown(self.tau)}, "
            f"reduction={self.reduction!r}"
        )


class _Known(torch.autograd.Function):
    """Values ``(r,)`` of rows of probabilities p and q, by which their derivatives ``(r, V)`` are known."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, q: Tensor, values: Tensor, by_p: Tensor, by_q: Tensor) -> Tensor:
        needed = ctx.needs_input_grad
        ctx.save_for_backward(p, q, by_p if needed[0] else None, by_q if needed[1] else None)
        return values

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        p, q, *derivatives = ctx.saved_tensors
        by = tuple(None if v is None else cotangent.detach()[:, None] * v for v in derivatives)
        return *once("VocabOTLoss", by, cotangent, p, q), None, None, None
