"""The points of AnnData's files, by h5py: AnnData itself would bring a dozen packages for the one array."""

from __future__ import annotations

import io

import h5py

from otkit.cli.files.arrays import key_of, with_weights
from otkit.cli.files.measure import Reading, UnusableInput
from otkit.cli.files.table import Table


def read_h5ad(data: bytes, how: Reading) -> Table:
    """Read an array of ``obsm``, beside the columns of ``obs`` that are numbers.

    Parameters
    ----------
    data : bytes
    how : Reading
        Its key is the name of the array in ``obsm``, which may be left out if there is only one.

    Returns
    -------
    Table

    Raises
    ------
    UnusableInput
        If the array is not there, or is sparse or a data frame.
    """
    with h5py.File(io.BytesIO(data), "r") as file:
        points, table = file.get("obsm", {}), file.get("obs", {})
        if not len(points):
            raise UnusableInput("has no array in obsm; set one, as adata.obsm['X'] = adata.X, and save it")
        key = key_of(list(points), how.key, "array of obsm")
        item = points[key]
        if not isinstance(item, h5py.Dataset) or item.ndim != 2:
            kind = item.attrs.get("encoding-type", "a group")
            raise UnusableInput(
                f"obsm[{key!r}] must be a dense 2-D array, got {kind}; set adata.obsm[{key!r}] to one by .toarray() or"
                " .to_numpy(), and save it"
            )
        numbers = {
            name: column[()]
            for name, column in table.items()
            if isinstance(column, h5py.Dataset) and column.dtype.kind in "fiub"
        }
        return with_weights(item[()], numbers)
