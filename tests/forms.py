"""Which form of the compiled operations and iterations runs, whatever the size of a problem."""

from otkit.kernels.numba import rows, sweep, tiles


def in_groups(monkeypatch, size, tile=None):
    """Problems of more entries than `size` are cut into groups of as many, and distances into tiles."""
    for owner, name in ((tiles, "SMALL"), (sweep, "SMALL"), (tiles, "_CHUNK"), (tiles, "_GROUP")):
        monkeypatch.setattr(owner, name, size)
    if tile is not None:
        monkeypatch.setattr(tiles, "_TILE", tile)


def few_kept(monkeypatch):
    """The entries that matter are listed, however small the problem and however many they are."""
    monkeypatch.setattr(rows, "WORTH", 0)
    monkeypatch.setattr(rows, "_SPARSE", 1.0)


def nothing_kept(monkeypatch):
    """There is no memory for entries, which are formed anew in every iteration."""
    monkeypatch.setattr(rows, "KEPT", 0)
    monkeypatch.setattr(rows, "NEGLIGIBLE", 0)
    monkeypatch.setattr(rows, "free_memory", lambda: 0)
