"""Whether image files can be decoded, before a training run finds out."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from pgsearch.data.image_files import UnreadableImage, decode_pixels, opened, read_image
from pgsearch.data.manifest_table import Problems
from pgsearch.data.pool import Progress

NUM_THREADS: Final = min(8, os.cpu_count() or 1)
CHECKED_SIZE: Final = 16
"""Side of the square that a checked image is resized to."""


def check_images(
    paths: Sequence[Path], problems: Problems, *, progress: Progress | None = None
) -> None:
    """Decode every image to its last byte and add to `problems` those that cannot be."""
    pool = ThreadPoolExecutor(NUM_THREADS)
    try:
        for n, reason in enumerate(pool.map(_reason_against, paths)):
            if reason is not None:
                problems.add("image", f"{paths[n]}: {reason}")
            if progress is not None:
                progress(n + 1, len(paths))
    finally:
        pool.shutdown(cancel_futures=True)


def _reason_against(path: Path) -> str | None:
    try:
        data = read_image(path)
        if not _is_whole_jpeg(data):
            decode_pixels(data, image_size=CHECKED_SIZE)
    except UnreadableImage as error:
        return str(error)
    return None


def _is_whole_jpeg(data: bytes) -> bool:
    """The quick way: all entropy-coded data is read, but only an eighth of each side computed."""
    from PIL import ImageOps

    try:
        with opened(data) as image:
            if image.format != "JPEG":
                return False
            image.draft("RGB", (1, 1))
            ImageOps.exif_transpose(image).convert("RGB")
    except Exception:  # decoders raise nearly anything; the slow way says what it is
        return False
    return True
