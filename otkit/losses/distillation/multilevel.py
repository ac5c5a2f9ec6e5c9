"""Distillation between vocabularies by the tokens and by the sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from otkit import arrays, checks
from otkit.losses.chunks import Chunk, chunk_values, upcast
from otkit.losses.distillation.transport import RowTransport, l1_costs
from otkit.losses.head import Head
from otkit.losses.rows import REDUCTIONS, Stats, check_choice, expectation, reduce, row_masks
from otkit.losses.sequences import aligned_rows
from otkit.losses.topk.entries import TopK

# Entries of a teacher's dense rows in memory at once.
_ENTRIES = 2**20


class MultiLevelOTLoss(nn.Module):
    """Distillation between vocabularies by the tokens and by the sequence: MultiLevelOT, as its paper describes it.

    Parameters
    ----------
    topk : int
        The number of entries of each vocabulary that are compared.
    had, sl, sd : float
        The factors of three parts: the L1 distance of tokens, their cross entropy, and the transport cost between the
        positions of a sequence.
    reg, n_iters
        Options of the transport, as in `SinKDLoss`.
    reduction : {"mean", "sum", "none"}
        The reduction over the sequences.
    shift, ignore_index, check
        As in `SinKDLoss`.

    Raises
    ------
    ValueError
        If an option makes no sense.

    Notes
    -----
    Cui et al. (2025). Logits are divided by their standard deviation. For each sequence and each model the entries with
    the largest probability over all tokens are compared, the largest with the largest. The first two parts are means
    over the tokens of a sequence. The plan of the third has mass 1.

    Differences from the released code: padding takes no part; probabilities are not softened twice; student and teacher
    are not exchanged in the second and third part; a sequence does not depend on the others of its batch; the standard
    deviation divides by V, not by V − 1, so that the divided logits are larger by a factor of √(V/(V − 1)).

    Logits of −inf exclude entries, as in `SoftTargetLoss`. They have no part in the standard deviation.

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
        check: bool = False,
    ) -> None:
        super().__init__()
        for name, value in {"topk": topk, "reg": reg, "n_iters": n_iters}.items():
            checks.positive(value, name)
        for name, value in {"had": had, "sl": sl, "sd": sd}.items():
            if not value >= 0:
                raise ValueError(f"{name} must be a factor of at least 0, got {value!r}; 0 leaves its part out")
        check_choice("reduction", reduction, REDUCTIONS)
        self.topk, self.had, self.sl, self.sd = topk, had, sl, sd
        self.transport = RowTransport(reg, int(n_iters))
        self.reduction, self.shift, self.ignore_index, self.check = reduction, shift, ignore_index, check

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
        student_logits : Tensor (batch, length, V) or (length, V), or Head
        teacher_logits : Tensor, TopK or Head
        mask, labels, teacher_mask, teacher_labels, num_items_in_batch, return_stats
            As in `ULDLoss`.

        Returns
        -------
        Tensor
            A number; without a reduction one for every sequence, or for every packed document with a row.
        dict of str to Tensor
            With `return_stats`: "rows", and means over the sequences of the parts "had", "sl" and "sd".

        Raises
        ------
        ValueError, TypeError
            If shapes do not fit together, or with ``check=True`` as there.
        """
        logits, given = (student_logits, teacher_logits), ((mask, labels), (teacher_mask, teacher_labels))
        keep = row_masks(self, logits, *given, num_items_in_batch, one_vocabulary=False)
        if isinstance(teacher_logits, TopK):
            self._check_tail(teacher_logits)
        seen: list[Tensor] = []
        with torch.autocast(student_logits.device.type, enabled=False):
            values, counts = self._sequences((student_logits, teacher_logits.detach()), keep, seen)
            shape = student_logits.shape[:-2] if keep[0].dtype == torch.bool else values.shape
            loss = reduce(values.reshape(shape), counts.reshape(shape), self.reduction, num_items_in_batch)
        if not return_stats:
            return loss
        means = torch.stack(seen).mean(0) if seen else torch.zeros(3)
        return loss, {"rows": counts.sum(), **dict(zip(("had", "sl", "sd"), means, strict=True))}

    def _sequences(
        self, logits: tuple[Tensor | Head, Tensor | TopK | Head], keep: tuple[Tensor, Tensor], seen: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The values of all sequences, and the numbers of rows that they compare."""
        student = logits[0].reshape(-1, logits[0].shape[-1])
        teacher = logits[1].reshape(-1, logits[1].shape[-1])
        rows, sizes = aligned_rows(*keep)
        chunks = []
        for mine, theirs in zip(rows[0].split(sizes.tolist()), rows[1].split(sizes.tolist()), strict=True):

            def loss(x: Tensor, theirs: Tensor = theirs) -> Tensor:
                return self._sequence(x, upcast(teacher[theirs]), seen)

            chunks.append(Chunk(mine, 1, loss, torch.zeros_like(mine)))
        return chunk_values(student, chunks), sizes

    def _check_tail(self, teacher: TopK) -> None:
        """Complain about a teacher whose leading entries over a sequence are not known."""
        if teacher.tail == "one bucket" or (teacher.tail == "uniform" and teacher.vocab_size is None):
            raise ValueError(
                f"MultiLevelOTLoss needs the probability of each entry of the teacher, got tail={teacher.tail!r} and "
                f"vocab_size={teacher.vocab_size}; pass tail='renormalise', or tail='uniform' with the size of the "
                "teacher's vocabulary"
            )

    def _sequence(self, student: Tensor, teacher: Tensor | TopK, seen: list[Tensor]) -> Tensor:
        """The value ``(1,)`` of the rows of one sequence."""
        if not len(student):
            return student.sum()[None]
        entries = teacher.shape[-1] if isinstance(teacher, Tensor) else teacher.vocab_size or self.topk
        width = min(self.topk, student.shape[-1], entries)
        (p, log_p), (q, log_q) = _leading(*_scaled(student), width), _leading(*_candidates(teacher, width), width)
        uniform = p.new_full((1, len(p)), 1 / len(p))
        had = (p - q).abs().sum(-1).mean()
        sl = -expectation(log_q, log_p).mean()
        sd = self.transport(l1_costs(p[None], q[None]), uniform, uniform, None)[0]
        seen.append(torch.stack([had, sl, sd]).detach())
        parts = (self.had, had), (self.sl, sl), (self.sd, sd)
        return torch.stack([factor * part for factor, part in parts if factor] or [0.0 * had]).sum()[None]

    def extra_repr(self) -> str:
        return f"topk={self.topk}, had={self.had:g}, sl={self.sl:g}, sd={self.sd:g}, {self.transport}"


def _candidates(teacher: Tensor | TopK, width: int) -> tuple[Tensor, Tensor | None]:
    """`_scaled`, of entries that can be among the leading: those that a row knows, and as many others."""
    if isinstance(teacher, Tensor):
        return _scaled(teacher)
    ids = teacher.indices[teacher.indices >= 0].unique()
    entries = teacher.vocab_size or max(int(ids.max()) + 1, width)
    first = torch.arange(min(entries, len(ids) + width), device=ids.device)
    columns = torch.cat([ids, first[~torch.isin(first, ids)][:width]])
    parts = []
    for part in range(0, len(teacher), size := max(1, _ENTRIES // entries)):
        logits = teacher[part : part + size].logits(entries)
        p, none = _scaled(logits)
        parts.append((p[:, columns], (torch.zeros_like(p, dtype=torch.bool) if none is None else none)[:, columns]))
    return torch.cat([p for p, _ in parts]), torch.cat([none for _, none in parts])


def _scaled(logits: Tensor) -> tuple[Tensor, Tensor | None]:
    """The probabilities of logits divided by their standard deviation, and where entries are excluded."""
    deviation, none = logits.std(-1, keepdim=True, correction=0), None
    if not deviation.isfinite().all():  # excluded entries have no part in it
        none = logits == -torch.inf
        logits = logits.masked_fill(none, 0.0)
        deviation = _deviation(logits, ~none)
    scaled = logits / deviation.clamp_min(torch.finfo(logits.dtype).eps)
    return torch.softmax(scaled if none is None else scaled.masked_fill(none, -torch.inf), -1), none


def _leading(p: Tensor, none: Tensor | None, width: int) -> tuple[Tensor, Tensor]:
    """The probabilities of the entries with the largest sums over all rows, the largest first, and their logarithms."""
    order = p.detach().sum(0).topk(width).indices
    p = p[:, order]
    log_p = p.clamp_min(torch.finfo(p.dtype).tiny).log()  # finite where a probability underflows
    return p, log_p if none is None else log_p.masked_fill(none[:, order], -torch.inf)


def _deviation(x: Tensor, there: Tensor) -> Tensor:
    """The standard deviation of some entries of each row; its derivative at 0 is 0."""
    count = there.sum(-1, keepdim=True)
    mean = x.masked_fill(~there, 0.0).sum(-1, keepdim=True) / count
    variance = (x - mean).square().masked_fill(~there, 0.0).sum(-1, keepdim=True) / count
    return torch.where(variance == 0, 0.0, torch.where(variance == 0, 1.0, variance).sqrt())
