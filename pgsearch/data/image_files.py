"""One image file to RGB pixels of a fixed size, whatever it holds; or the reason why not.

A small file can ask for hours of work and all memory. So only formats of plain rasters are read
(EPS would be run by Ghostscript), and pixels, passes over them and pixels in memory are bounded.
"""

import contextlib
import hashlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from pgsearch.untrusted import read_file

if TYPE_CHECKING:
    from PIL import Image

DECODER_VERSION: Final = 1
"""Part of cache keys and fingerprints: raise it with every change that moves a pixel."""

MAX_PIXELS: Final = 89_478_485
"""More is refused before it is decoded: 268 MB in memory, and Pillow warns of a bomb from here."""

MAX_FILE_BYTES: Final = 8 * MAX_PIXELS
"""As much as the pixels have without compression, with four channels of 16 bits."""

MAX_SCANNED_PIXELS: Final = 200 * MAX_PIXELS
"""A progressive JPEG has some ten passes over its pixels; a hostile one a thousand times that."""

MAX_EXIF_BLOCKS: Final = 100
"""Cameras write one or two, and Pillow joins them in quadratic time."""

FORMATS: Final = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")

SHA256_BYTES: Final = 32


class UnreadableImage(Exception):
    """An image file cannot be used. The message is the rule and what to do."""


@dataclass(frozen=True, eq=False)
class DecodedImage:
    pixels_HWC: npt.NDArray[np.uint8]
    file_sha256: npt.NDArray[np.uint8]


def decode_image(path: Path, *, image_size: int) -> DecodedImage:
    """Decode, turn upright by its EXIF orientation and resize to a square, aspect ratio not kept.

    Bilinear with antialiasing. Transparent parts show white; of several frames it is the first.

    Raises:
        UnreadableImage: the file cannot be read or decoded, or is absurdly large.
    """
    data = read_image(path)
    digest = np.frombuffer(hashlib.sha256(data).digest(), dtype=np.uint8)
    return DecodedImage(decode_pixels(data, image_size=image_size), digest)


def read_image(path: Path) -> bytes:
    """Return what is in an image file. Raises UnreadableImage."""
    try:
        return read_file(path, max_bytes=MAX_FILE_BYTES)
    except OSError as error:
        raise UnreadableImage(
            f"an image must be a readable file, but: {error.strerror}; correct the path, or check "
            f"its permissions and the disk"
        ) from error


def decode_pixels(data: bytes, *, image_size: int) -> npt.NDArray[np.uint8]:
    """Decode the bytes of an image file as `decode_image` does. Raises UnreadableImage."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with opened(data) as image:
            ImageOps.exif_transpose(image, in_place=True)
            resized = _to_rgb(image).resize((image_size, image_size), Image.Resampling.BILINEAR)
            return np.asarray(resized, dtype=np.uint8)
    except UnreadableImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(
            f"an image may have at most {MAX_PIXELS:,} pixels; make it smaller ({error})"
        ) from error
    # Decoders of damaged bytes raise nearly anything: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, UnidentifiedImageError):  # its text is the address of our buffer
            reason = "this one cannot be recognised"
        raise UnreadableImage(
            f"an image must be whole and one of {', '.join(FORMATS)}, but {reason}; "
            f"replace the file or leave it out"
        ) from error


@contextlib.contextmanager
def opened(data: bytes) -> Iterator["Image.Image"]:
    """Open an image that is safe to decode, once there is room for its pixels.

    Raises UnreadableImage for one that is not safe, and what Pillow raises.
    """
    from PIL import Image

    _require_little_exif(data)
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _require_sane_size(*image.size)
        num_pixels = image.width * image.height
        if image.format in ("JPEG", "MPO"):
            _require_few_passes(data, num_pixels)
        with _ROOM.taken(num_pixels):
            yield image


class _Room:
    """Lets threads decode together as long as their images fit into it."""

    def __init__(self, num_pixels: int) -> None:
        self._num_free = num_pixels
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, num_pixels: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._num_free >= num_pixels)
            self._num_free -= num_pixels
        try:
            yield
        finally:
            with self._changed:
                self._num_free += num_pixels
                self._changed.notify_all()


# Decoding holds up to four copies of an image, of four bytes per pixel: 1.4 GB for the largest.
_ROOM: Final = _Room(MAX_PIXELS)


def _require_little_exif(data: bytes) -> None:
    num_blocks = data.count(b"Exif\0\0")
    if num_blocks > MAX_EXIF_BLOCKS:
        raise UnreadableImage(
            f"an image may have at most {MAX_EXIF_BLOCKS} blocks of EXIF, this one has "
            f"{num_blocks:,}; save it anew"
        )


def _require_sane_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableImage(
            f"an image may have at most {MAX_PIXELS:,} pixels, this one has {width}×{height}; "
            f"make it smaller"
        )


def _require_few_passes(data: bytes, num_pixels: int) -> None:
    # Within a pass 0xFF is followed by 0 or a restart; elsewhere a marker may stand by chance.
    num_passes = data.count(b"\xff\xda")
    if num_passes * num_pixels > MAX_SCANNED_PIXELS:
        raise UnreadableImage(
            f"a JPEG of {num_pixels:,} pixels may have at most "
            f"{MAX_SCANNED_PIXELS // num_pixels:,} passes over them, this one has {num_passes:,}; "
            f"save it anew"
        )


def _to_rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode.startswith("I;16"):
        # Pillow would clip at 255 and turn nearly all of such an image white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UnreadableImage(
            f"an image must have 8 or 16 bits per channel, this one has mode {image.mode} "
            f"(32 bits), whose range is not known; save it with 8 bits"
        )
    if image.has_transparency_data:
        layers = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGBA", layers.size, "white")
        return Image.alpha_composite(white, layers).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
