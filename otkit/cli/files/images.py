"""Images: grey values as masses."""

from __future__ import annotations

import io
import warnings

import numpy as np

from otkit.cli.files.measure import UnusableInput


def read_image(data: bytes) -> np.ndarray:
    """Read the grey values of an image, times its opacity.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    array (rows, columns)

    Raises
    ------
    UnusableInput
        If there are several pages, or it is no image.
    """
    from PIL import Image, UnidentifiedImageError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # otkit has its own limit on size
        # No other formats: some of Pillow's run programs.
        formats = ("PNG", "JPEG", "TIFF", "BMP", "PPM", "WEBP")
        try:
            image = Image.open(io.BytesIO(data), formats=formats)
        except UnidentifiedImageError:
            raise UnusableInput(f"cannot be read as an image in {', '.join(formats)}; save it in one of them") from None
    with image:
        pages = getattr(image, "n_frames", 1)
        if pages > 1 and image.format != "MPO":  # a photograph with previews of itself
            raise UnusableInput(f"must hold one image, got {pages}; save the one that is meant to a file of its own")
        if image.mode.startswith(("I", "F")):  # 16 or 32 bits, grey already
            grey = np.asarray(image, dtype=np.float64)
            return np.where(grey == image.info.get("transparency"), 0.0, grey)
        if image.has_transparency_data:
            grey, opacity = np.moveaxis(np.asarray(image.convert("RGBA").convert("LA"), dtype=np.float64), -1, 0)
            return grey * opacity / 255
        return np.asarray(image.convert("RGB").convert("L"), dtype=np.float64)
