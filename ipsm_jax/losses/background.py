"""Which pixels of a DTU photo are background, by color alone (METHOD section 3).

DTU's objects stand before a black curtain on a white or black table. Published work zeroes these pixels in the target
of L1, so that no Gaussians are spent on them. Images are (H, W, 3) uint8; masks are (H, W) bool, True = background.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8

DARK_LEVEL = 30
"""A pixel is dark when its largest channel is below this, of 255."""
COLUMN_LENGTH = 49
"""Number of pixels above that must be dark too; fewer where the image ends."""
WHITE_MEAN = 0.99
"""A pixel is white when the mean of its channels, in [0, 1], exceeds this."""


def background_mask(image: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Pixels that are dark together with the up to 49 pixels above them in their column, or white."""
    dark = image.max(axis=-1) < DARK_LEVEL
    bright_so_far = np.cumsum(~dark, axis=0)
    bright_before = np.zeros_like(bright_so_far)
    bright_before[COLUMN_LENGTH + 1 :] = bright_so_far[: -(COLUMN_LENGTH + 1)]
    white = image.astype(np.uint32).sum(axis=-1) > WHITE_MEAN * 3 * 255
    return (bright_so_far == bright_before) | white


def zero_background(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The image with its background pixels black."""
    return np.where(background_mask(image)[..., None], np.uint8(0), image)
