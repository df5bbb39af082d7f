"""Image files that are not as they should be."""

import io
import os
import struct
import zlib

import numpy as np
from PIL import Image

# What a file system allows in a name, and what a terminal, a page or a drawn line would take for something else.
NAMES = [
    "a\nb.png",
    "a\rb\tc.png",
    "\x1b[31mred\x07.png",
    "\u202egnp.png",
    "\u2028.png",
    " .png",
    "-rf.png",
    "..png",
    "<img src=x onerror=alert(1)>.png",
    "<script>alert(1)<.png",
    "<!--.png",
    "'\"`$(touch pwned)`.png",
    "{{data}}.png",
    "javascript:alert(1)#x?y.png",
    "%2e%2e.png",
    "back\\slash.png",
    "x" * 250 + ".png",
    "🤖🏳️‍🌈.png",
    "caf\udce9.png",  # a byte that is no UTF-8
    "index.html/a.png",
    "index.html_/a.png",
    "results.json/a.png",
    "progress.jsonl/a.png",
    "contact.jpg/image.jpg",
]


def png(image=None):
    file = io.BytesIO()
    (image or Image.new("RGB", (16, 16), "red")).save(file, "PNG")
    return file.getvalue()


def with_chunk(kind, data):
    """A PNG with a further chunk before its pixels."""
    whole = png()
    at = whole.index(b"IDAT") - 4
    return (
        whole[:at]
        + struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
        + whole[at:]
    )


def one_color(width, height):
    """A PNG of any size in black and white, small as a file and fast to make: no picture of that size is held."""
    rows = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(rows.compress(row) for _ in range(height)) + rows.flush()

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def write_bad_files(folder):
    """Write files that cannot be read, and return their names."""
    bomb = zlib.compress(bytes(1 << 27), 9)
    gif = io.BytesIO()
    Image.new("P", (4, 4)).save(gif, "GIF")
    files = {
        "empty.png": b"",
        "text.png": b"hello",
        "cut.png": png()[:45],
        "crc.png": png()[:-20] + bytes(20),
        "zeros.png": b"\x89PNG\r\n\x1a\n" + bytes(40),
        "ones.tif": b"II*\0" + b"\xff" * 60,
        "pixels.png": one_color(12000, 12000),
        "more.png": one_color(20000, 20000),
        "ztxt.png": with_chunk(b"zTXt", b"Comment\0\0" + bomb),
        "itxt.png": with_chunk(b"iTXt", b"Comment\0\1\0\0\0" + bomb),
        "iccp.png": with_chunk(b"iCCP", b"x\0\0" + bomb),
        "screen.gif": gif.getvalue()[:6] + b"\xff\xff\xff\xff" + gif.getvalue()[10:],
        "program.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with open(folder / "large.webp", "wb") as file:  # without holes filled
        file.write(b"RIFF\xff\xff\xff\xffWEBPVP8 ")
        file.truncate(2**31)
    return sorted([*files, "large.webp"])


def write_no_files(folder):
    """Write what has the name of an image and is no file."""
    (folder / "folder.png").mkdir()
    (folder / "self.png").symlink_to("self.png")
    (folder / "nowhere.png").symlink_to("/nonexistent.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "loop").symlink_to(folder)
    (folder / "again").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")


def write_odd_images(folder):
    """Write images that are unusual but whole, and return their names."""
    nan = np.full((5, 6), np.nan, np.float32)
    some = np.array([[-np.inf, 1, 2, 3, np.nan, np.inf]], np.float32)
    images = {
        "one.png": Image.new("RGB", (1, 1)),
        "wide.png": Image.new("LA", (300, 1)),
        "tall.png": Image.new("RGB", (1, 5000)),
        "line.png": Image.new("1", (1, 100_000)),
        "cmyk.tif": Image.new("CMYK", (30, 30)),
        "palette.png": Image.new("P", (9, 9)),
        "nan.tif": Image.fromarray(nan),
        "some.tif": Image.fromarray(some),
        "int.tif": Image.fromarray(np.array([[-(2**31), 2**31 - 1]], np.int32)),
        "huge.tif": Image.fromarray(np.array([[-3e38, 3e38]], np.float32)),
    }
    for name, image in images.items():
        image.save(folder / name)
    frames = [Image.new("P", (200, 200), n) for n in range(60)]
    frames[0].save(folder / "frames.gif", save_all=True, append_images=frames[1:])
    return sorted([*images, "frames.gif"])


def damaged(generator, formats=("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "TIFF deflate", "JPEG exif")):
    """Endlessly, a file of one format after the other with some bytes changed or cut off, as (suffix, bytes)."""
    noise = Image.fromarray(generator.integers(0, 255, (16, 16, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = {}
    for name in formats:
        kind, _, variant = name.partition(" ")
        file = io.BytesIO()
        options = {"deflate": {"compression": "tiff_deflate"}, "exif": {"exif": exif}}.get(variant, {})
        noise.save(file, kind, **options)
        whole[name] = file.getvalue()
    while True:
        for name, content in whole.items():
            changed = bytearray(content)
            for at in generator.integers(0, len(changed), generator.integers(1, 6)):
                changed[at] = generator.integers(256)
            if generator.random() < 0.2:
                del changed[generator.integers(len(changed)) :]
            yield name.split()[0].lower(), bytes(changed)
