"""A checksum of the bits of an array, compiled: about the time of reading it once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from otkit.kernels.numba.jit import jit

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that the product is a bijection
_SHIFT = np.uint64(32)
_TILE = 2**20  # bytes of a copy of a part that is not contiguous


@jit
def _mixed(word, state):
    state = (state ^ np.uint64(word)) * _FACTOR
    return state ^ (state >> _SHIFT)  # without it, two changes of the highest bit, the sign, would cancel


@jit
def _mix(words, state):
    """The state after all words, by eight lanes that do not wait for each other."""
    s0, s1, s2, s3 = state, ~state, state ^ _FACTOR, ~state ^ _FACTOR
    s4, s5, s6, s7 = s0 + _SHIFT, s1 + _SHIFT, s2 + _SHIFT, s3 + _SHIFT
    whole = words.size - words.size % 8
    for i in range(0, whole, 8):
        s0, s1 = _mixed(words[i], s0), _mixed(words[i + 1], s1)
        s2, s3 = _mixed(words[i + 2], s2), _mixed(words[i + 3], s3)
        s4, s5 = _mixed(words[i + 4], s4), _mixed(words[i + 5], s5)
        s6, s7 = _mixed(words[i + 6], s6), _mixed(words[i + 7], s7)
    for i in range(whole, words.size):
        s0 = _mixed(words[i], s0)
    for lane in (s1, s2, s3, s4, s5, s6, s7):
        s0 = _mixed(lane, s0)
    return s0


def checksum(x: np.ndarray) -> int:
    """A number that changes if one entry of ``x (..., n, m)`` does, and almost surely if several do."""
    parts: Iterable[np.ndarray]
    if x.flags.c_contiguous:
        parts = [x.reshape(-1)]
    elif x.flags.f_contiguous:
        parts = [x.T.reshape(-1)]
    else:
        n = x.shape[-2]
        rows = max(1, _TILE * n // x.nbytes)
        parts = (x[..., low : low + rows, :].reshape(-1) for low in range(0, n, rows))
    state = np.uint64(x.ndim)
    for part in parts:
        state = np.uint64(_mix(part.view(f"u{x.itemsize}"), state))
    return int(state)
