"""Logits of a linear head that are computed some rows at a time, in the forward and again in the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from otkit import checks
from otkit.losses.tensors import check_tensor

if TYPE_CHECKING:
    from otkit.losses.chunks import Chunk

# Entries of a part of the gradient by the weights.
_ENTRIES = 2**20


@final
@dataclass(frozen=True, eq=False)
class Head:
    """Logits ``hidden @ weight.T + bias``, of which only some rows are in memory at a time.

    Losses of logits take it in place of the student's and of the teacher's logits.

    Attributes
    ----------
    hidden : Tensor (rows, d) or (batch, length, d)
        The last hidden states of a model.
    weight : Tensor (V, d)
        The weights of its head: ``model.lm_head.weight``.
    bias : Tensor (V,), optional

    Raises
    ------
    ValueError, TypeError
        If shapes, dtypes or devices do not fit together.

    Notes
    -----
    The gradient by hidden states, weights and bias is computed in the backward pass, which forms each row of logits
    again. The memory of a loss is that of some rows, and of the gradients. It does not grow like rows × V, except of
    losses between the rows of a sequence, `MultiLevelOTLoss` and ``SinKDLoss("token")``, which hold one sequence.

    Logits are rounded to the dtype of `hidden`, as those of the model; weights of another dtype are cast once. The
    gradient by weights in half precision is summed with twice their digits.

    What a model does to its logits afterwards, such as a cap or a factor, is not done here. Weights that are sharded
    must be gathered for the forward and the backward pass.

    Examples
    --------
    >>> import torch
    >>> from otkit.losses import Head, SoftTargetLoss
    >>> hidden, weight = torch.eye(2, requires_grad=True), torch.ones(3, 2, requires_grad=True)
    >>> teacher = torch.eye(2, 3)
    >>> loss = SoftTargetLoss()(Head(hidden, weight), teacher)
    >>> loss.backward()
    >>> bool(torch.isclose(loss, SoftTargetLoss()(hidden @ weight.T, teacher))), weight.grad.shape
    (True, torch.Size([3, 2]))
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        names = {"hidden": self.hidden, "weight": self.weight, **({} if self.bias is None else {"bias": self.bias})}
        for name, v in names.items():
            check_tensor(name, v)
        fits = self.hidden.ndim >= 2 and self.weight.ndim == 2 and self.hidden.shape[-1] == self.weight.shape[1]
        if not fits or (self.bias is not None and self.bias.shape != self.weight.shape[:1]):
            raise ValueError(
                "hidden, weight and bias must have shapes (..., rows, d), (V, d) and (V,), got "
                f"{', '.join(str(tuple(v.shape)) for v in names.values())}; pass lm_head.weight as it is"
            )
        if len({v.device for v in names.values()}) > 1:
            raise ValueError(f"{', '.join(f'{name} is on {v.device}' for name, v in names.items())}; move them")

    @property
    def shape(self) -> torch.Size:
        """The shape of the logits."""
        return torch.Size([*self.hidden.shape[:-1], len(self.weight)])

    @property
    def ndim(self) -> int:
        """The number of axes of the logits."""
        return self.hidden.ndim

    @property
    def device(self) -> torch.device:
        """The device of the logits."""
        return self.hidden.device

    @property
    def requires_grad(self) -> bool:
        """Whether the logits have a gradient."""
        return any(v.requires_grad for v in self._tensors())

    def __len__(self) -> int:
        return len(self.hidden)

    def __getitem__(self, rows: Any) -> Tensor:
        """Rows of logits."""
        return torch.nn.functional.linear(self.hidden[rows], *self._cast()[1:])

    def reshape(self, *shape: int) -> Head:
        """The same rows in other leading axes."""
        return Head(self.hidden.reshape(*shape[:-1], self.hidden.shape[-1]), self.weight, self.bias)

    def detach(self) -> Head:
        """The same without a gradient, and cast to one dtype."""
        hidden, weight, bias = self._cast()
        return Head(hidden.detach(), weight.detach(), None if bias is None else bias.detach())

    def new_zeros(self, size: int) -> Tensor:
        """Zeros in the dtype of the logits."""
        return self.hidden.new_zeros(size)

    def new_full(self, size: tuple[int, ...], value: float) -> Tensor:
        """Equal numbers in the dtype of the logits."""
        return self.hidden.new_full(size, value)

    def _cast(self) -> tuple[Tensor, Tensor, Tensor | None]:
        dtype = self.hidden.dtype
        return self.hidden, self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)

    def _tensors(self) -> list[Tensor]:
        return [v for v in (self.hidden, self.weight, self.bias) if v is not None]


def head_values(head: Head, chunks: Sequence[Chunk]) -> Tensor:
    """The values of all chunks of rows of ``head (N, V)``, one after the other."""
    for v in head._tensors():
        checks.no_transform(v, "the tensors of a Head")
    values: Tensor = _HeadValues.apply(head.hidden, head.weight, head.bias, chunks)
    return values


def _wide(v: Tensor) -> Tensor:
    return v.float() if v.element_size() == 2 else v


class _HeadValues(torch.autograd.Function):
    """Values whose rows of logits are computed again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, chunks: Sequence[Chunk]
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(hidden, weight, bias)
        ctx.chunks = chunks
        return _values(Head(hidden, weight, bias).detach(), chunks)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        given, needed = ctx.saved_tensors, ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # create_graph=True
            by = iter(
                torch.autograd.grad(
                    _values(Head(*given), ctx.chunks),
                    [v for v, there in zip(given, needed, strict=True) if there],
                    cotangent,
                    create_graph=True,
                )
            )
            return *(next(by) if there else None for there in needed), None
        head = Head(*given).detach()
        sums = [_Sum(v) if there else None for v, there in zip(given, needed, strict=True)]
        first = 0
        for chunk in ctx.chunks:
            rows = _wide(head[chunk.rows]).requires_grad_()
            with torch.enable_grad():
                value = chunk.loss(rows)
            after = first + len(value)
            (found,) = torch.autograd.grad(value, rows, cotangent[first:after])
            first = after
            del value, rows
            _add(sums, found.to(head.hidden.dtype), head, chunk.rows)
        return *(None if total is None else total.value for total in sums), None


def _values(head: Head, chunks: Sequence[Chunk]) -> Tensor:
    return torch.cat([chunk.loss(_wide(head[chunk.rows])) for chunk in chunks])


class _Sum:
    """A sum of terms in the shape of a tensor; in half precision the lower digits are a second tensor."""

    def __init__(self, like: Tensor) -> None:
        self.value = torch.zeros_like(like, memory_format=torch.contiguous_format)
        self.lower = torch.zeros_like(self.value) if like.element_size() == 2 else None

    def add(self, part: slice, term: Tensor) -> None:
        """Add a term to some rows."""
        if self.lower is None:
            self.value[part] += term
            return
        total = self.value[part].float() + self.lower[part].float() + term.float()
        self.value[part] = total
        self.lower[part] = total - self.value[part].float()


def _add(sums: list[_Sum | None], by_logits: Tensor, head: Head, rows: Tensor | slice) -> None:
    """Add what rows of logits with a gradient contribute to the gradients by hidden states, weights and bias."""
    by_hidden, by_weight, by_bias = sums
    if by_hidden is not None:
        by_hidden.value[rows] += by_logits @ head.weight
    if by_weight is not None:
        hidden, size = head.hidden[rows], max(1, _ENTRIES // head.hidden.shape[1])
        for low in range(0, len(head.weight), size):
            by_weight.add(slice(low, low + size), by_logits[:, low : low + size].T @ hidden)
    if by_bias is not None:
        by_bias.add(slice(None), by_logits.sum(0, dtype=_wide(by_logits[:0]).dtype))
