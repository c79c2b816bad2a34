"""Pictures made to take memory, broken ones and unusual ones: refused by name, or given as RGB."""

import io
import os
import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from eegdecode.data.sources import PictureError
from eegdecode.data.sources.alljoined import _nsd_image
from eegdecode.data.sources.pictures import FORMATS, MAX_PIXELS, open_picture


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png(width: int, height: int, rows: bytes, bits: int = 8, colour: int = 2) -> bytes:
    """A PNG by hand: its header may say anything."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bmp(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


def gif(width: int, height: int, frame: tuple[int, int]) -> bytes:
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0)
    return screen + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x01\x00\x00;"


def webp(width: int, height: int) -> bytes:
    extended = b"\2\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + extended + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg(width: int, height: int) -> bytes:
    whole = encoded(Image.new("RGB", (8, 8)), "JPEG")
    at = whole.index(b"\xff\xc0") + 5
    return whole[:at] + struct.pack(">HH", height, width) + whole[at + 4 :]


BOMBS = {
    "PNG": png(50_000, 50_000, bytes(1000)),
    "PNG below Pillow's bound": png(12_000, 8_000, bytes(1000)),
    "PNG just above ours": png(8_001, 8_000, bytes(1000)),
    "PNG, one line": png((1 << 31) - 1, 1, b""),
    "BMP": bmp(50_000, 50_000),
    "GIF": gif(65_535, 65_535, (65_535, 65_535)),
    "GIF whose frame is larger than its screen": gif(8, 8, (65_535, 65_535)),
    "WebP": webp(16_383, 16_383),
    "JPEG": jpeg(65_000, 65_000),
    "a real one of 780 MB in 33 kB": encoded(Image.new("1", (20_000, 13_000)), "PNG"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path, name: str):
    path = tmp_path / "bomb.jpg"
    path.write_bytes(BOMBS[name])
    assert path.stat().st_size < 60_000
    resident = resident_bytes()
    for source, said in ((path, r"picture 'a bomb': '.*bomb\.jpg'"), (BOMBS[name], "picture 'a bomb'")):
        with pytest.raises(PictureError, match=f"{said} must have at most 64000000 pixels"):
            open_picture(source, "a bomb")
    assert resident_bytes() - resident < 32 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_the_largest_picture_allowed_is_decoded():
    image = open_picture(encoded(Image.new("L", (8_000, 8_000), 7), "PNG"), "large")
    assert (image.size, image.getpixel((7_999, 7_999))) == ((8_000, 8_000), (7, 7, 7))
    assert image.width * image.height == MAX_PIXELS


def test_a_png_whose_stream_is_larger_than_its_header_says_gives_what_the_header_says():
    # 128 MB of zeros; only what fits is unpacked.
    packer = zlib.compressobj(9)
    stream = b"".join(packer.compress(bytes(1 << 24)) for _ in range(8)) + packer.flush()
    whole = png(4, 4, b"")
    start = whole.index(b"IDAT") - 4
    bomb = whole[:start] + struct.pack(">I", len(stream)) + b"IDAT" + stream
    bomb += struct.pack(">I", zlib.crc32(b"IDAT" + stream)) + whole[whole.index(b"IEND") - 4 :]
    resident = resident_bytes()
    assert open_picture(bomb, "a").tobytes() == bytes(48)
    assert resident_bytes() - resident < 32 << 20


@pytest.mark.parametrize("form", FORMATS)
def test_a_cut_picture_is_refused_and_a_whole_one_is_not(tmp_path: Path, form: str):
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(pixels), form)
    assert open_picture(whole, "a").size == (64, 64)
    path = tmp_path / "cut.jpg"
    for n in (0, 1, 20, 200, len(whole) // 2, len(whole) - len(whole) // 8):
        path.write_bytes(whole[:n])
        with pytest.raises(PictureError, match=r"picture 'a': '.*cut\.jpg' does not decode"):
            open_picture(path, "a")


@pytest.mark.parametrize("form", FORMATS)
def test_a_spoilt_picture_ends_in_a_picture_or_one_kind_of_error(form: str):
    rng = np.random.default_rng(0)
    whole = encoded(Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)), form)
    opened = 0
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(4):
            content[rng.integers(len(whole))] = rng.integers(256)
        try:
            image = open_picture(bytes(content), "spoilt")
        except PictureError as error:
            assert str(error).startswith("picture 'spoilt'")  # noqa: PT017
        else:
            assert image.mode == "RGB"
            opened += 1
    assert opened < 300


def test_what_is_no_picture_of_a_stated_format_is_named(tmp_path: Path):
    said = r"picture 'a': '.*a\.jpg' does not decode: it must be one of JPEG, PNG, WEBP, BMP, GIF\."
    image = Image.new("RGB", (8, 8))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n"
    for content in (b"just text", b"", script, b"<svg/>", *(encoded(image, form) for form in ("TIFF", "ICO", "PPM"))):
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(PictureError, match=said):
            open_picture(tmp_path / "a.jpg", "a")
    with pytest.raises(PictureError, match=r"picture 'b' does not exist: '.*none\.png'"):
        open_picture(tmp_path / "none.png", "b")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("pipe.png", "."):
        with pytest.raises(PictureError, match="picture 'b' must be a file: '"):
            open_picture(tmp_path / name, "b")


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_what_moves_is_refused_and_one_frame_is_not(form: str):
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    with pytest.raises(PictureError, match="picture 'a' must be a still picture, and moves"):
        open_picture(encoded(red, form, save_all=True, append_images=[blue], lossless=True), "a")
    assert open_picture(encoded(red, form, save_all=True, lossless=True), "a").getpixel((0, 0)) == (255, 0, 0)


def test_a_cameras_jpeg_with_a_preview_is_its_first_picture():
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    pixel = open_picture(encoded(red, "MPO", save_all=True, append_images=[blue]), "a").getpixel((0, 0))
    assert pixel == (254, 0, 0)


def test_other_kinds_of_pixels_become_rgb():
    grey_HW = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    rgb_HWC = np.stack([grey_HW, grey_HW[::-1], grey_HW.T], axis=-1)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rgb_HWC)
    eight_HW = (grey_HW // 257).astype(np.uint8)
    palette = Image.fromarray(eight_HW, "P")
    palette.putpalette([channel for k in range(256) for channel in (k, 255 - k, 7)])
    wanted = {
        "16 bits of grey": (encoded(Image.fromarray(grey_HW), "PNG"), np.stack([eight_HW] * 3, -1)),
        "16 bits of RGB": (png(16, 16, lines, bits=16), (rgb_HWC // 257).astype(np.uint8)),
        "grey": (encoded(Image.fromarray(eight_HW), "PNG"), np.stack([eight_HW] * 3, -1)),
        "1 bit": (encoded(Image.new("1", (16, 16), 1), "PNG"), np.full((16, 16, 3), 255, np.uint8)),
        "a palette": (
            encoded(palette, "PNG"),
            np.stack([eight_HW, 255 - eight_HW, np.full((16, 16), 7, np.uint8)], -1),
        ),
        "CMYK": (
            encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"),
            np.tile(np.array([255, 0, 0], np.uint8), (16, 16, 1)),
        ),
        "transparency": (
            encoded(Image.new("RGBA", (16, 16), (1, 2, 3, 128)), "PNG"),
            np.tile(np.array([1, 2, 3], np.uint8), (16, 16, 1)),
        ),
    }
    for name, (content, rgb) in wanted.items():
        image = open_picture(content, name)
        assert image.mode == "RGB", name
        np.testing.assert_array_equal(np.asarray(image), rgb, err_msg=name)


def test_a_bomb_in_hdf5_is_refused_before_it_is_read(tmp_path: Path):
    with h5py.File(tmp_path / "nsd_stimuli.hdf5", "w") as file:
        file.create_dataset("imgBrick", (2, 50_000, 50_000, 3), "u1", chunks=(1, 1000, 1000, 3), compression="gzip")
    resident = resident_bytes()
    with pytest.raises(PictureError, match=r"picture '1': nsd_stimuli\.hdf5 must hold at most 64000000 pixels"):
        _nsd_image(tmp_path, "1")
    assert resident_bytes() - resident < 32 << 20
