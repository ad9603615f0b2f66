"""One picture file to 8-bit RGB, whatever it holds; or, of one channel, to the numbers in it.

Gray becomes three equal channels, 16 bits become 8, and transparency is composited over the background that training
renders on, black unless it is said. The orientation tag of cameras and phones is applied only when the picture then has
the shape that its camera model says and does not have it otherwise: COLMAP, and with it LLFF and nerfstudio, works on
the stored pixels and ignores the tag, so turning a picture that fits already would turn it away from its pose.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ipsm_jax.data.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM")
SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm"))
Background = tuple[float, float, float]
"""A color behind transparent pictures, RGB in [0, 1]."""

Image.init()  # all formats now: Pillow would load them at first use, which is not safe from several threads


_LARGE = 1 << 24  # pixels; no more of them are decoded if there are
_SHRUNK = 1100  # times as many as bytes: no picture that shows anything can be compressed so much


@contextlib.contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Say in a sentence what Pillow raises about a damaged file, which may be anything."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise DataError(
            f"{path}: this is not a picture ({', '.join(FORMATS)} are read); replace or remove it"
        ) from None
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path}: the picture is damaged, or larger than the {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels that are "
            "opened; replace it, or make it smaller"
        ) from error
    except Exception as error:
        raise DataError(f"{path}: the picture is damaged or cut short ({error}); replace it") from error


def _open(path: Path) -> Image.Image:
    """The opened file, pixels not decoded yet."""
    try:
        data = path.read_bytes()  # whole: from an open file, Python allocates whatever length Pillow finds in it
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such picture") from None
    except OSError as error:
        raise DataError(f"{path}: the picture cannot be read ({error.strerror or error})") from error
    with _decoding(path):
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > max(_LARGE, _SHRUNK * len(data)):
            raise DataError(f"{path}: damaged: it claims {width}x{height} pixels in {len(data)} bytes; replace it")
        return image


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) of the stored pixels, orientation tag not applied.

    Raises:
      DataError: if the file is missing or no picture.
    """
    with _open(path) as image:
        return image.size


def orientation(path: Path) -> int:
    """The orientation tag of a picture: 1 (or no tag) is upright as stored, 2 to 8 are to be turned or mirrored.

    Raises:
      DataError: if the file is missing or no picture.
    """
    with _open(path) as image:
        try:
            tag = image.getexif().get(ExifTags.Base.Orientation, 1)
        except Exception:  # damaged, see `_decoding`: viewers ignore it, too
            return 1
        return tag if tag in range(2, 9) else 1


def fits(size: tuple[float, float], shape: tuple[float, float]) -> bool:
    """Whether a picture of `size` can be a camera image of `shape` at another resolution, both (width, height).

    Resized pictures are rounded to whole pixels, so the aspect ratios may differ by about a pixel.
    """
    (w, h), (width, height) = size, shape
    return abs(w * height - h * width) <= 1.5 * max(width, height) + 0.002 * w * height


def over(image: Image.Image, background: Background) -> Image.Image:
    """An RGBA picture over a color, as RGB; an RGB picture as it is."""
    if image.mode != "RGBA":
        return image
    color = tuple(round(255 * channel) for channel in background)
    return Image.alpha_composite(Image.new("RGBA", image.size, (*color, 255)), image).convert("RGB")


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    """8-bit RGB of any mode that Pillow reads, or RGBA where it has transparency."""
    if image.mode.startswith("I"):  # 16 bits, which Pillow hands out as I;16, I;16B or I
        values = np.asarray(image).astype(np.int64)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise DataError(
                f"{path}: pixel values {values.min()}..{values.max()} do not fit 16 bits; save it as 8 bits"
            )
        return Image.fromarray(np.round(values / 257.0).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise DataError(f"{path}: floating-point pixels have no agreed range; save the picture as 8-bit RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return image.convert("RGBA")
    return image.convert("RGB")


def read_picture(
    path: Path, shape: tuple[float, float] | None = None, background: Background | None = (0.0, 0.0, 0.0)
) -> Image.Image:
    """Decoded 8-bit RGB picture.

    Args:
      path: the file.
      shape: (width, height) that its camera model was made for, at any resolution; None to accept any.
      background: what shows through transparent parts, RGB in [0, 1]; None keeps them, as RGBA.

    Raises:
      DataError: if the file is missing, no picture, truncated, or of another aspect ratio than its camera.
    """
    with _open(path) as image, _decoding(path):
        image.load()
        stored = image.size
        if shape is not None and not fits(image.size, shape):
            image = ImageOps.exif_transpose(image)
        if shape is not None and not fits(image.size, shape):
            raise DataError(
                f"{path}: the picture has {stored[0]}x{stored[1]} pixels, but its camera was made for "
                f"{shape[0]:g}x{shape[1]:g}: the aspect ratios differ. "
                "Use the pictures that the poses were computed from"
            )
        pixels = _eight_bits(image, path)
        return pixels if background is None else over(pixels, background)


def open_upright(path: Path) -> tuple[Image.Image, Image.Exif]:
    """Decoded 8-bit RGB picture as a viewer shows it, the orientation tag applied, and its EXIF data.

    For photos that no camera model was made for yet; `read_picture` is for posed ones.

    Raises:
      DataError: if the file is missing, no picture or truncated.
    """
    with _open(path) as image, _decoding(path):
        image.load()
        exif = image.getexif()
        exif.get_ifd(ExifTags.IFD.Exif)  # kept by Pillow, so that it cannot fail later
        return over(_eight_bits(ImageOps.exif_transpose(image), path), (0.0, 0.0, 0.0)), exif


def read_levels(path: Path) -> np.ndarray:
    """(H, W) numbers stored in a picture of one channel, 8 or 16 bits, as they are.

    Raises:
      DataError: if the file is missing, no picture, truncated, or has colors, a palette or transparency.
    """
    with _open(path) as image, _decoding(path):
        image.load()
        if not (image.mode == "L" or image.mode.startswith("I")) or "transparency" in image.info:
            raise DataError(
                f"{path}: expected one channel of 8 or 16 bits, found {image.mode}; a colored picture of numbers "
                "cannot be read back"
            )
        return np.asarray(image)


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at another (width, height), Lanczos-filtered over the covered area."""
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def as_array(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """(H, W, 3) uint8."""
    return np.asarray(image, np.uint8)


def read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool at (width, height) `size`, True where the mask's brightest channel is at least half of full scale.

    Raises:
      DataError: as `read_picture`, and for another aspect ratio.
    """
    image = read_picture(path, shape=size)
    brightest = Image.fromarray(as_array(image).max(axis=-1))
    return np.asarray(brightest.resize(size, Image.Resampling.BOX)) >= 128
