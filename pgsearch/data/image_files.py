"""One image file to RGB pixels of a fixed size, whatever it holds; or the reason why not."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

DECODER_VERSION: Final = 1
"""Part of cache keys and fingerprints: raise it with every change that moves a pixel."""

MAX_PIXELS: Final = 89_478_485
"""More is refused before it is decoded: 268 MB in memory, and Pillow warns of a bomb from here."""

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
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableImage(
            f"an image must be a readable file, but: {error.strerror}; correct the path, or check "
            f"its permissions and the disk"
        ) from error
    digest = np.frombuffer(hashlib.sha256(data).digest(), dtype=np.uint8)
    return DecodedImage(_decode(data, image_size), digest)


def _decode(data: bytes, image_size: int) -> npt.NDArray[np.uint8]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            _require_sane_size(*image.size)
            rgb = _to_rgb(ImageOps.exif_transpose(image))
            resized = rgb.resize((image_size, image_size), Image.Resampling.BILINEAR)
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
            f"an image must be whole and of a format that Pillow knows, but {reason}; "
            f"replace the file or leave it out"
        ) from error


def _require_sane_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableImage(
            f"an image may have at most {MAX_PIXELS:,} pixels, this one has {width}×{height}; "
            f"make it smaller"
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
        layers = image.convert("RGBA")
        white = Image.new("RGBA", layers.size, "white")
        return Image.alpha_composite(white, layers).convert("RGB")
    return image.convert("RGB")
