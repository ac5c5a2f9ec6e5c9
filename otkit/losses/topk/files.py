"""Files of a teacher's leading entries, in the formats of safetensors and Parquet."""

from __future__ import annotations

import os
from pathlib import Path

from otkit.losses.topk.entries import TopK

FORMATS = (".safetensors", ".parquet")


def write_topk(path: str | os.PathLike[str], teacher: TopK) -> None:
    """Write a teacher's leading entries to a file, which `read_topk` reads.

    Parameters
    ----------
    path : str or Path
        Its ending says the format, ``.safetensors`` or ``.parquet``.
    teacher : TopK
        Of any leading axes. Parquet has no shapes: it keeps rows only.

    Raises
    ------
    ValueError
        If the ending is another.

    Notes
    -----
    A file of safetensors has two tensors of one shape ``(..., k)``: ``indices``, of int32, and ``logprobs``, in the
    dtype of the teacher's. Its metadata have ``tail`` and ``vocab_size``, as strings. Parquet has the columns
    ``indices`` and ``logprobs``, lists of as many entries as a row knows, and the same metadata.

    Examples
    --------
    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from otkit.losses import TopK, read_topk, write_topk
    >>> teacher = TopK(torch.tensor([[3, 8], [5, -1]]), torch.tensor([[-0.2, -2.0], [-0.1, 0.0]]), "one bucket")
    >>> path = Path(tempfile.mkdtemp(), "teacher.safetensors")
    >>> write_topk(path, teacher)
    >>> read_topk(path, rows=slice(1, 2))
    TopK(indices=tensor([[ 5, -1]]), logprobs=tensor([[-0.1000,    -inf]]), tail='one bucket', vocab_size=None)
    """
    metadata = {"tail": teacher.tail, **({} if teacher.vocab_size is None else {"vocab_size": str(teacher.vocab_size)})}
    indices, logprobs = teacher.indices.int().cpu().contiguous(), teacher.logprobs.cpu().contiguous()
    if _format(path) == ".parquet":
        from otkit.losses.topk import pyarrow

        k = indices.shape[-1]
        pyarrow.write(path, indices.reshape(-1, k), logprobs.reshape(-1, k), metadata)
    else:
        from otkit.losses.topk import safetensors

        safetensors.write(path, indices, logprobs, metadata)


def read_topk(path: str | os.PathLike[str], rows: slice | None = None, tail: str | None = None) -> TopK:
    """The leading entries of a teacher in a file.

    Parameters
    ----------
    path : str or Path
        A file in the layout of `write_topk`, whoever wrote it: metadata may be missing.
    rows : slice, optional
        The part of the first axis to read. Only this part of a file of safetensors is read.
    tail : str, optional
        As in `TopK`, in place of the file's. A file that has none is "renormalise".

    Returns
    -------
    TopK

    Raises
    ------
    ValueError
        If the format is another, a tensor or column is missing, or as `TopK` does.

    Notes
    -----
    Whole numbers and floats of any width are read. Gaps of a row are ids of −1 or log-probabilities of −inf.

    Examples
    --------
    >>> import tempfile, torch
    >>> from pathlib import Path
    >>> from otkit.losses import TopK, read_topk, write_topk
    >>> path = Path(tempfile.mkdtemp(), "teacher.safetensors")
    >>> write_topk(path, TopK(torch.tensor([[3, 8], [5, 1]]), torch.tensor([[-0.2, -2.0], [-0.1, -3.0]]), "one bucket"))
    >>> read_topk(path, rows=slice(0, 1)).indices
    tensor([[3, 8]])
    """
    if rows is not None and rows.step not in (None, 1):
        raise ValueError(f"rows must be a slice without a step, got {rows}; index the TopK instead")
    if _format(path) == ".parquet":
        from otkit.losses.topk import pyarrow

        indices, logprobs, metadata = pyarrow.read(path, rows or slice(None))
    else:
        from otkit.losses.topk import safetensors

        indices, logprobs, metadata = safetensors.read(path, rows or slice(None))
    size = metadata.get("vocab_size")
    return TopK(indices, logprobs, tail or metadata.get("tail", "renormalise"), None if size is None else int(size))


def _format(path: str | os.PathLike[str]) -> str:
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise ValueError(f"path must end in {' or '.join(FORMATS)}, got {str(path)!r}; rename the file, or convert it")
    return ending


def missing(path: str | os.PathLike[str], found: list[str]) -> ValueError:
    """The complaint about a file without one of its two parts."""
    return ValueError(
        f"{Path(path).name} must have indices and logprobs, got {', '.join(sorted(found)) or 'nothing'}; rename what "
        "they are called there"
    )
