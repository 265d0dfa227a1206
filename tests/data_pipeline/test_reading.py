"""Images and label PNGs in every form that files come in."""

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from lvt_d2.data.reading import read_image, read_label_values
from lvt_d2.errors import DatasetError, DatasetFileNotFoundError

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 11, 3), np.uint8)
TURNS = {  # EXIF orientation: from what is stored to what is shown
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: np.swapaxes(x, 0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.swapaxes(x[::-1, ::-1], 0, 1),
    8: lambda x: np.rot90(x, 1),
}


def save(path, pixels, mode=None, **options):
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return str(path)


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def png(header_depth, color_type, rows):
    """A PNG by hand: Pillow does not write grey ones of 2 and 4 bits."""
    import struct
    import zlib

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    width = rows.shape[1]
    bits = np.unpackbits(rows[..., None], axis=-1)[..., -header_depth:].reshape(len(rows), -1)
    packed = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    header = struct.pack(">IIBBBBB", width, len(rows), header_depth, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(packed))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_colour(tmp_path, image_format):
    found = read_image(save(tmp_path / "a.png", PIXELS), image_format)
    np.testing.assert_array_equal(found, PIXELS[..., :: 1 if image_format == "RGB" else -1])
    assert found.dtype == np.uint8


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "CMYK"])
def test_modes(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    found = read_image(save(tmp_path / f"a.{suffix}", PIXELS, mode), "RGB")
    expected = np.asarray(Image.fromarray(PIXELS).convert(mode).convert("RGB"))
    np.testing.assert_array_equal(found, expected)


def test_transparency_is_dropped(tmp_path):
    rgba = np.dstack([PIXELS, np.zeros((7, 11), np.uint8)])
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", rgba), "RGB"), PIXELS)


def test_16_bit_grey_keeps_its_upper_bits(tmp_path):
    wide = np.arange(0, 65536, 65536 // 76, dtype=np.uint16)[:77].reshape(7, 11)
    found = read_image(save(tmp_path / "a.png", wide), "RGB")
    np.testing.assert_array_equal(found, np.repeat(wide[..., None] >> 8, 3, axis=2))
    assert found.max() == 255


@pytest.mark.parametrize("values", [np.float32([[0.5]]), np.int32([[70000]]), np.int32([[-1]])])
def test_32_bit_images_are_refused(tmp_path, values):
    with pytest.raises(DatasetError, match=r"a\.tif has 32-bit pixels .* expected 8 or 16 bits"):
        read_image(save(tmp_path / "a.tif", values), "RGB")


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_turns_images_and_labels(tmp_path, orientation):
    path = save(tmp_path / "a.png", PIXELS, exif=exif(orientation))
    np.testing.assert_array_equal(read_image(path, "RGB"), TURNS[orientation](PIXELS))
    for values in (PIXELS[..., 0], PIXELS[..., 0].astype(np.uint16) * 257):
        path = save(tmp_path / "b.png", values, exif=exif(orientation))
        np.testing.assert_array_equal(read_label_values(path), TURNS[orientation](values))
    wide = read_image(path, "RGB")
    np.testing.assert_array_equal(wide[..., 0], TURNS[orientation](PIXELS[..., 0]))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_matter(tmp_path):
    path = save(tmp_path / "a.jpg", PIXELS, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xffgarbage")
    assert read_image(path, "RGB").shape == PIXELS.shape
    path = save(tmp_path / "b.jpg", PIXELS, exif=b"Exif\0\0neither of the byte orders")
    assert read_image(path, "RGB").shape == PIXELS.shape


@pytest.mark.parametrize("content", ["truncated", "text", "missing"])
@pytest.mark.parametrize("read", [lambda path: read_image(path, "RGB"), read_label_values])
def test_unreadable_files(tmp_path, content, read):
    path = tmp_path / "a.png"
    if content == "truncated":
        noise = np.random.default_rng(0).integers(0, 256, (60, 60), np.uint8)
        save(path, noise)
        path.write_bytes(path.read_bytes()[:2000])
    elif content == "text":
        path.write_text("no image")
    kind = DatasetFileNotFoundError if content == "missing" else DatasetError
    what = "does not exist" if content == "missing" else "can't be decoded"
    with pytest.raises(kind, match=rf"a\.png {what}"):
        read(str(path))


def test_grey_labels(tmp_path):
    values = np.arange(77, dtype=np.uint8).reshape(7, 11)
    np.testing.assert_array_equal(read_label_values(save(tmp_path / "a.png", values)), values)


def test_palette_labels_are_indices(tmp_path):
    values = np.arange(77, dtype=np.uint8).reshape(7, 11)
    image = Image.fromarray(values)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    assert image.mode == "P"
    image.save(tmp_path / "a.png")
    found = read_label_values(str(tmp_path / "a.png"))
    np.testing.assert_array_equal(found, values)


def test_palette_of_few_bits(tmp_path):
    values = np.arange(77, dtype=np.uint8).reshape(7, 11) % 4
    image = Image.fromarray(values)
    image.putpalette([9, 9, 9, 80, 0, 0, 0, 80, 0, 0, 0, 80])
    image.save(tmp_path / "a.png", bits=2)
    np.testing.assert_array_equal(read_label_values(str(tmp_path / "a.png")), values)


def test_16_bit_labels(tmp_path):
    values = np.arange(77, dtype=np.uint16).reshape(7, 11) * 700
    np.testing.assert_array_equal(read_label_values(save(tmp_path / "a.png", values)), values)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_grey_labels_of_few_bits_are_not_spread(tmp_path, depth):
    values = (np.arange(77, dtype=np.uint8) & 2**depth - 1).reshape(7, 11)
    (tmp_path / "a.png").write_bytes(png(depth, 0, values))
    np.testing.assert_array_equal(read_label_values(str(tmp_path / "a.png")), values)


def test_text_before_the_pixels(tmp_path):
    """The header is the first chunk, whatever else the file has."""
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 300)
    values = np.arange(77, dtype=np.uint8).reshape(7, 11)
    path = save(tmp_path / "a.png", values, pnginfo=info)
    np.testing.assert_array_equal(read_label_values(path), values)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGB", "png"), ("RGBA", "png"), ("LA", "png"), ("F", "tif"), ("L", "jpg")],
)
def test_colours_and_lossy_files_are_no_labels(tmp_path, mode, suffix):
    path = save(tmp_path / f"a.{suffix}", PIXELS, mode)
    with pytest.raises(
        DatasetError, match=rf"a\.{suffix} is a .* of mode {mode}; expected one val"
    ):
        read_label_values(path)
