"""Attention sinks: measured, moved, learned, and streamed without end.

A softmax map is the plan of a semi-relaxed transport problem, with exact rows and free columns. A sink is a column
where its mass piles up.

The functions of tensors need torch. `attach`, the readers and the caches need transformers as well. Both are loaded on
first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otkit.attention.caches import HeavyHitterCache, SinkCache
    from otkit.attention.functions import grouped_attention, grouped_mask, sink_attention, streaming_attention
    from otkit.attention.maps import importance, massive_activation, massive_dims, redistribute, sink_rate
    from otkit.attention.models import Attachment, Reader, attach
    from otkit.attention.readers import ACT, VAR, SinkMeter, choose_heads
    from otkit.attention.rotation import Rotation

_HOMES = {
    "maps": ("importance", "sink_rate", "redistribute", "massive_activation", "massive_dims"),
    "functions": ("sink_attention", "grouped_attention", "grouped_mask", "streaming_attention"),
    "models": ("attach", "Attachment", "Reader"),
    "rotation": ("Rotation",),
    "caches": ("SinkCache", "HeavyHitterCache"),
    "readers": ("SinkMeter", "ACT", "VAR", "choose_heads"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022  (in the order of the reference)
    "SinkMeter",
    "SinkCache",
    "HeavyHitterCache",
    "ACT",
    "VAR",
    "choose_heads",
    "attach",
    "Attachment",
    "Reader",
    "Rotation",
    "sink_attention",
    "grouped_attention",
    "grouped_mask",
    "streaming_attention",
    "importance",
    "sink_rate",
    "redistribute",
    "massive_activation",
    "massive_dims",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'otkit.attention' has no attribute {name!r}")
    try:
        module = import_module(f"otkit.attention.{_HOME[name]}")
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in ("torch", "transformers"):
            raise
        raise ImportError(
            f"otkit.attention.{name} needs {library}; install it with: pip install 'otkit[attention]'",
            name=library,
        ) from error
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
