import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pgsearch.data.image_files import UnreadableImage, decode_image

WIDE = np.zeros((8, 16, 3), dtype=np.uint8)
WIDE[:, 8:] = 255  # black left, white right


def _saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def _pixels(path: Path, image_size: int = 8) -> np.ndarray:
    pixels = decode_image(path, image_size=image_size).pixels_HWC
    assert pixels.shape == (image_size, image_size, 3)
    assert pixels.dtype == np.uint8
    return pixels


def test_the_aspect_ratio_is_not_kept(tmp_path: Path) -> None:
    pixels = _pixels(_saved(Image.fromarray(WIDE), tmp_path / "a.png"))
    assert (pixels[:, :3] == 0).all()
    assert (pixels[:, 5:] == 255).all()


def test_shrinking_averages_instead_of_picking_pixels(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 240, 3), dtype=np.uint8)
    pixels = _pixels(_saved(Image.fromarray(noise), tmp_path / "a.png"), image_size=16)
    assert noise.std() > 70
    assert pixels.std() < 10


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90° clockwise to see it upright
    pixels = _pixels(_saved(Image.fromarray(WIDE), tmp_path / "a.png", exif=exif))
    assert (pixels[:3] == 0).all()
    assert (pixels[5:] == 255).all()


@pytest.mark.parametrize(
    ("image", "name", "expected"),
    [
        (Image.new("L", (4, 4), 90), "grey.png", (90, 90, 90)),
        (Image.new("1", (4, 4), 1), "bits.png", (255, 255, 255)),
        (Image.new("RGB", (4, 4), (10, 200, 30)).quantize(4), "palette.png", (10, 200, 30)),
        (Image.new("RGBA", (4, 4), (10, 200, 30, 255)), "opaque.png", (10, 200, 30)),
        (Image.new("RGBA", (4, 4), (10, 200, 30, 0)), "transparent.png", (255, 255, 255)),
        (Image.new("LA", (4, 4), (100, 0)), "grey_alpha.png", (255, 255, 255)),
        (Image.fromarray(np.full((4, 4), 0x4000, np.uint16)), "deep.png", (64, 64, 64)),
        (Image.new("CMYK", (4, 4), (0, 0, 0, 255)), "cmyk.tif", (0, 0, 0)),
    ],
)
def test_every_mode_becomes_rgb(
    tmp_path: Path, image: Image.Image, name: str, expected: tuple[int, int, int]
) -> None:
    pixels = _pixels(_saved(image, tmp_path / name))
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.uint8(expected), (8, 8, 3)))


def test_a_palette_with_a_transparent_colour_shows_white_there(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 10, 10])
    pixels = _pixels(_saved(image, tmp_path / "a.png", transparency=1))
    assert (pixels == 255).all()


def _random_jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cannot be recognised"),
        (b"no image at all", "cannot be recognised"),
        (_random_jpeg()[:1500], "truncated"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(UnreadableImage, match=f"must be whole .*{reason}.*; replace the file"):
        _pixels(tmp_path / "a.jpg")


def test_damage_inside_a_png_is_refused(tmp_path: Path) -> None:
    path = _saved(Image.fromarray(WIDE), tmp_path / "a.png")
    data = bytearray(path.read_bytes())
    middle = data.index(b"IDAT") + 8
    data[middle : middle + 8] = b"\xff" * 8
    path.write_bytes(bytes(data))
    with pytest.raises(UnreadableImage, match="must be whole"):
        _pixels(path)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_absurdly_large_images_are_refused_before_decoding(tmp_path: Path, side: int) -> None:
    # A header without pixels: decoding it would fail with another message.
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", b"")
    )
    with pytest.raises(UnreadableImage, match=r"at most 89,478,485 pixels.*make it smaller"):
        _pixels(tmp_path / "a.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_large_image_is_refused_where_warnings_are_not_errors(tmp_path: Path) -> None:
    test_absurdly_large_images_are_refused_before_decoding(tmp_path, 10_000)


def test_levels_without_a_known_range_are_refused(tmp_path: Path) -> None:
    path = _saved(Image.new("F", (4, 4), 0.5), tmp_path / "a.tif")
    with pytest.raises(UnreadableImage, match=r"mode F .*; save it with 8 bits"):
        _pixels(path)


def test_a_file_that_vanished_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="No such file"):
        _pixels(tmp_path / "a.png")
