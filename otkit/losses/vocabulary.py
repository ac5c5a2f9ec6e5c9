"""Distillation between vocabularies: sorted probabilities, and transport within one vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from otkit import arrays, checks
from otkit.losses.chunks import Piece, values_of, wide
from otkit.losses.rowwise import RowLoss, Stats
from otkit.losses.targets import REDUCTIONS, aligned, kept_of_both, one_of, reduced
from otkit.losses.transport import RowTransport
from otkit.losses.vocabulary_cost import VocabularyCost


class ULDLoss(RowLoss):
    """Universal logit distillation: the L1 distance of sorted probabilities, for two vocabularies.

    Parameters
    ----------
    student_temperature, teacher_temperature : float
        The temperatures of the softmaxes.
    topk : int, optional
        Compare the largest probabilities only, and the sums of the rest: less to sort, and never more than the whole.
    reduction, shift, ignore_index, chunk_size
        As in `SinKDLoss`.

    Raises
    ------
    ValueError
        If an option makes no sense.

    Notes
    -----
    Boizard et al. (2024): the transport between two vocabularies of which nothing is known, so that any move costs the
    same. In each sequence the answers, the rows that take part, are compared from the first on, as far as both go; the
    mean is that over all rows.

    The gradient is computed in the forward pass, a few rows at a time: beside the logits nothing of their size is held
    but it. It needs no copy of the teacher's logits, which get no gradient. Half precision is computed in float32.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import ULDLoss
    >>> student, teacher = torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([[0.1, 0.5, 0.3, 0.1]]).log()
    >>> round(float(ULDLoss()(student, teacher)), 4)
    0.4
    """

    one_vocabulary = False

    def __init__(
        self,
        student_temperature: float = 1.0,
        teacher_temperature: float = 1.0,
        topk: int | None = None,
        reduction: str = "mean",
        *,
        shift: bool = False,
        ignore_index: int = -100,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__(reduction, shift, ignore_index, chunk_size)
        numbers = {"student_temperature": student_temperature, "teacher_temperature": teacher_temperature, "topk": topk}
        for name, value in numbers.items():
            checks.positive(value, name)
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

    def extra_repr(self) -> str:
        return (
            f"student_temperature={self.student_temperature:g}, teacher_temperature={self.teacher_temperature:g}, "
            f"topk={self.topk}, reduction={self.reduction!r}"
        )


class VocabOTLoss(RowLoss):
    """The Sinkhorn divergence between two distributions over one vocabulary, at costs that know what is alike.

    Parameters
    ----------
    cost : VocabularyCost
        The costs between entries: `VocabularyCost.nearest` of token embeddings, or `VocabularyCost.dense`.
    reg : float
        The regularisation, in units of the cost.
    n_iters : int
        Iterations for each of the three problems of a divergence.
    unbalanced : float, optional
        The price of a unit of KL divergence of the masses, in units of the cost. None asks for exact marginals, which a
        sparse cost can seldom give: its iterations then have no limit, and the loss is what that many have made of it.
    tau : float
        The temperature of both softmaxes.
    reduction, shift, ignore_index, chunk_size
        As in `SinKDLoss`.

    Raises
    ------
    ValueError
        If an option makes no sense.

    Notes
    -----
    WASD (2026) with nearest neighbours of embeddings, and WKD-L (Lv et al. 2024) with similarities of classes. The
    gradient by the student's probabilities is that of the divergence by its weights, the difference of two potentials
    (envelope theorem): nothing goes back through the iterations.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import VocabOTLoss
    >>> from otkit.losses.vocabulary_cost import VocabularyCost
    >>> cost = VocabularyCost.dense(torch.tensor([[0.0, 0.1, 1.0], [0.1, 0.0, 1.0], [1.0, 1.0, 0.0]]))
    >>> loss = VocabOTLoss(cost, reg=0.1, n_iters=100, tau=1.0)
    >>> teacher, near, far = (torch.tensor([p]).log() for p in ([0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]))
    >>> [round(float(loss(v, teacher)), 3) for v in (near, far)]
    [0.056, 0.659]
    """

    def __init__(
        self,
        cost: VocabularyCost,
        reg: float = 0.05,
        n_iters: int = 10,
        unbalanced: float | None = None,
        tau: float = 2.0,
        reduction: str = "mean",
        *,
        shift: bool = False,
        ignore_index: int = -100,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__(reduction, shift, ignore_index, chunk_size)
        numbers = {"reg": reg, "n_iters": n_iters, "unbalanced": unbalanced, "tau": tau}
        for name, value in numbers.items():
            checks.positive(value, name)
        if not isinstance(cost, VocabularyCost):
            raise ValueError(
                f"cost must be a VocabularyCost, got {type(cost).__name__}; VocabularyCost.dense(matrix) makes one"
            )
        self.reg, self.n_iters, self.unbalanced, self.tau = reg, int(n_iters), unbalanced, tau
        for name, part in zip(("first", "column", "arc"), (cost.first, cost.column, cost.cost), strict=True):
            self.register_buffer(name, part, persistent=False)

    @property
    def cost(self) -> VocabularyCost:
        """The costs, where the module is."""
        return VocabularyCost(self.first, self.column, self.arc)  # type: ignore[arg-type]

    def rows(self, student: Tensor, teacher: Tensor) -> Tensor:
        size = len(self.first) - 1  # type: ignore[arg-type]
        if student.shape[-1] != size:
            raise ValueError(f"logits must have {size} entries, as many as the cost, got {student.shape[-1]}")
        p = torch.softmax(student / self.tau, -1)
        with torch.no_grad():
            q = torch.softmax(teacher / self.tau, -1)
            value, slope = self.cost.divergence(p, q, self.reg, self.n_iters, self.unbalanced)
        linear = (slope * p).sum(-1)
        return value + (linear - linear.detach())

    def extra_repr(self) -> str:
        return (
            f"reg={self.reg:g}, n_iters={self.n_iters}, unbalanced={self.unbalanced}, tau={self.tau:g}, "
            f"reduction={self.reduction!r}"
        )


class MultiLevelOTLoss(nn.Module):
    """Distillation between vocabularies by the tokens and by the sequence: MultiLevelOT, as it is meant.

    Parameters
    ----------
    topk : int
        How many entries of each vocabulary are compared.
    had, sl, sd : float
        The factors of three parts: the L1 distance of tokens, their cross entropy, and the transport cost between the
        positions of a sequence.
    reg, n_iters
        Of the transport, as in `SinKDLoss`.
    reduction : {"mean", "sum", "none"}
        What becomes of the sequences.
    shift, ignore_index
        As in `SinKDLoss`.

    Raises
    ------
    ValueError
        If an option makes no sense.

    Notes
    -----
    Cui et al. (2025). Logits are divided by their standard deviation; of each sequence, and for each model, the entries
    with the largest probability over all its tokens are compared, the largest with the largest. The first two parts are
    means over the tokens of a sequence, and the third is a plan of mass 1.

    Unlike the released code, padding takes no part, probabilities are not softened once more, student and teacher are
    not exchanged in the second and third part, and a sequence does not see the others of its batch.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import MultiLevelOTLoss
    >>> generator = torch.Generator().manual_seed(0)
    >>> student, teacher = torch.randn(2, 5, 30, generator=generator), torch.randn(2, 6, 40, generator=generator)
    >>> MultiLevelOTLoss(topk=10)(student, teacher, teacher_mask=torch.ones(2, 6)).shape
    torch.Size([])
    """

    def __init__(
        self,
        topk: int = 50,
        had: float = 1.0,
        sl: float = 0.1,
        sd: float = 0.1,
        reg: float = 0.1,
        n_iters: int = 10,
        reduction: str = "mean",
        *,
        shift: bool = False,
        ignore_index: int = -100,
    ) -> None:
        super().__init__()
        for name, value in {"topk": topk, "reg": reg, "n_iters": n_iters}.items():
            checks.positive(value, name)
        for name, value in {"had": had, "sl": sl, "sd": sd}.items():
            if not value >= 0:
                raise ValueError(f"{name} must be a factor of at least 0, got {value!r}")
        one_of("reduction", reduction, REDUCTIONS)
        self.topk, self.had, self.sl, self.sd = topk, had, sl, sd
        self.transport = RowTransport(reg, int(n_iters))
        self.reduction, self.shift, self.ignore_index = reduction, shift, ignore_index

    @arrays.eager
    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
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
        student_logits, teacher_logits : Tensor (batch, length, V) or (length, V)
        mask, labels, teacher_mask, teacher_labels, num_items_in_batch, return_stats
            As in `ULDLoss`.

        Returns
        -------
        Tensor
            A number; without a reduction one for every sequence.
        dict of str to Tensor
            With `return_stats`: "rows", and means over the sequences of the parts "had", "sl" and "sd".

        Raises
        ------
        ValueError
            If shapes do not fit together.
        """
        logits, given = (student_logits, teacher_logits), ((mask, labels), (teacher_mask, teacher_labels))
        keep = kept_of_both(self, logits, *given, num_items_in_batch, one_vocabulary=False)
        seen: list[Tensor] = []
        with torch.autocast(student_logits.device.type, enabled=False):
            values, counts = self._sequences((student_logits, teacher_logits.detach()), keep, seen)
            shape = student_logits.shape[:-2]
            loss = reduced(values.reshape(shape), counts.reshape(shape), self.reduction, num_items_in_batch)
        if not return_stats:
            return loss
        means = torch.stack(seen).mean(0) if seen else torch.zeros(3)
        return loss, {"rows": counts.sum(), **dict(zip(("had", "sl", "sd"), means, strict=True))}

    def _sequences(
        self, logits: tuple[Tensor, Tensor], keep: tuple[Tensor, Tensor], seen: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The values of all sequences, and how many rows they compare."""
        student, teacher = (v.reshape(-1, v.shape[-1]) for v in logits)
        rows = aligned(*keep)
        sequence = rows[0] // keep[0].shape[-1]
        number = keep[0].numel() // keep[0].shape[-1]
        sizes = torch.bincount(sequence, minlength=number)
        pieces = []
        for mine, theirs in zip(rows[0].split(sizes.tolist()), rows[1].split(sizes.tolist()), strict=True):

            def loss(x: Tensor, theirs: Tensor = theirs) -> Tensor:
                return self._sequence(x, wide(teacher[theirs]), seen)

            pieces.append(Piece(mine, 1, loss, torch.zeros_like(mine)))
        return values_of(student, pieces), sizes

    def _sequence(self, student: Tensor, teacher: Tensor, seen: list[Tensor]) -> Tensor:
        """The value ``(1,)`` of rows of one sequence."""
        if not len(student):
            return student.sum()[None]
        width = min(self.topk, student.shape[-1], teacher.shape[-1])
        p, q = (_leading(v, width) for v in (student, teacher))
        uniform = p.new_full((1, len(p)), 1 / len(p))
        had = (p - q).abs().sum(-1).mean()
        sl = -(q * p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum(-1).mean()
        sd = self.transport(p[None], q[None], uniform, uniform, None)[0]
        seen.append(torch.stack([had, sl, sd]).detach())
        return (self.had * had + self.sl * sl + self.sd * sd)[None]

    def extra_repr(self) -> str:
        return f"topk={self.topk}, had={self.had:g}, sl={self.sl:g}, sd={self.sd:g}, {self.transport}"


def _leading(logits: Tensor, width: int) -> Tensor:
    """The probabilities of the entries that have the largest ones over all rows, the largest first."""
    spread = logits.std(-1, keepdim=True, correction=0)
    p = torch.softmax(logits / spread.clamp_min(torch.finfo(logits.dtype).eps), -1)
    return p[:, p.detach().sum(0).topk(width).indices]
