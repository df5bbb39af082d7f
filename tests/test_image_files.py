"""Image files that are damaged, too large, odd, or no files, as the probe's folder and the command line read them."""

import os
import struct
import subprocess
import warnings
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from lightning_cam.training.image_files import images_below, read_image
from lightning_cam.training.sources import images_of_folder
from tests.hostile import (
    NAMES,
    damaged,
    one_color,
    png,
    write_bad_files,
    write_no_files,
    write_odd_images,
)


@pytest.mark.filterwarnings("ignore")  # what Pillow warns of is part of the damage
def test_whatever_is_wrong_with_a_file_is_an_oserror(tmp_path):
    for name in write_bad_files(tmp_path):
        with pytest.raises(OSError):
            read_image(tmp_path / name)


def test_pixels_are_bounded_by_pillow_s_limit(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(one_color(60, 50))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    assert read_image(tmp_path / "a.png").size == (60, 50)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2999)
    with warnings.catch_warnings(), pytest.raises(OSError, match="60×50 pixels are more than the limit of 2,999"):
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        read_image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_image(tmp_path / "a.png").size == (60, 50)


@pytest.mark.timeout(60)
def test_only_regular_files_are_found_and_opened(tmp_path):
    (tmp_path / "sub" / "deeper").mkdir(parents=True)
    for name in ("a.png", "sub/b.PNG", "sub/deeper/c.jpg"):
        (tmp_path / name).write_bytes(png())
    (tmp_path / "link.png").symlink_to("a.png")
    write_no_files(tmp_path)
    found = [file.relative_to(tmp_path).as_posix() for file in images_below(tmp_path)]
    assert found == ["a.png", "link.png", "sub/b.PNG", "sub/deeper/c.jpg"]
    for name, message in {
        "folder.png": "not a regular file",
        "zero.png": "not a regular file",
        "pipe.png": "not a regular file",
        "self.png": "no such file",
        "nowhere.png": "no such file",
    }.items():
        with pytest.raises(OSError, match=message):
            read_image(tmp_path / name)


def test_folders_may_be_nested_deeper_than_python_calls(tmp_path):
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(1500):  # the whole path is too long to be given at once
            os.mkdir("d", dir_fd=here)
            here, above = os.open("d", os.O_RDONLY, dir_fd=here), here
            os.close(above)
        (tmp_path / "d" / "a.png").write_bytes(png())
        assert images_below(tmp_path) == [tmp_path / "d" / "a.png"]
    finally:
        os.close(here)
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # pytest's own cleaning up calls itself per level


def test_odd_images_are_read(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in write_odd_images(tmp_path):
            with Image.open(tmp_path / name) as opened:
                image = read_image(tmp_path / name)
                assert image.mode == "RGB" and image.size == opened.size


def test_values_that_are_not_finite_do_not_set_the_range(tmp_path):
    write_odd_images(tmp_path)
    assert np.asarray(read_image(tmp_path / "some.tif"))[0, :, 0].tolist() == [0, 0, 128, 255, 0, 255]
    assert np.asarray(read_image(tmp_path / "nan.tif")).max() == 0
    assert np.asarray(read_image(tmp_path / "int.tif"))[0, :, 0].tolist() == [0, 255]


def test_gray_of_any_depth_is_converted_strip_by_strip(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_cam.training.image_files._STRIP", 20)
    values = np.random.default_rng(0).integers(0, 65536, (11, 7)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.png"))[..., 1], (values / 257).round())
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "a.tif")
    stretched = (values - values.min()) * (255 / np.ptp(values.astype(float)))
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.tif"))[..., 1], stretched.round())


@pytest.mark.filterwarnings("ignore")
def test_a_probe_of_a_folder_leaves_out_and_names_what_is_no_image(tmp_path, caplog):
    bad = write_bad_files(tmp_path)
    write_no_files(tmp_path)
    (tmp_path / "bad\n\x1b[31m.png").write_bytes(b"x")
    (tmp_path / "good.png").write_bytes(png())
    assert images_of_folder(tmp_path).images.shape == (1, 3, 16, 16)
    named = [message.partition(" is skipped: ")[0].rpartition("/")[2] for message in caplog.messages]
    assert sorted(named) == sorted([*bad, r"bad\n\x1b[31m.png"])
    assert all("\n" not in message and "\x1b" not in message for message in caplog.messages)


def test_a_probe_of_files_with_any_names(tmp_path):
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png())
    assert len(images_of_folder(tmp_path, 100).images) == len(NAMES)


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_of_any_format_is_an_image_or_an_oserror(tmp_path, caplog):
    (tmp_path / "a.png").write_bytes(png())
    read = 0
    for suffix, content in islice(damaged(np.random.default_rng(0)), 480):
        (tmp_path / f"m.{suffix}").write_bytes(content)
        try:
            assert read_image(tmp_path / f"m.{suffix}").mode == "RGB"
            read += 1
        except OSError:
            pass
        try:
            images_of_folder(tmp_path)
        except ValueError as error:
            assert "differ in size" in str(error)
        (tmp_path / f"m.{suffix}").unlink()
    assert 80 < read < 400  # damage of both kinds
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("lightning_cam")]
    assert ours and all("is skipped" in message for message in ours)


def tiff(bands, bits, pages=1):
    """An uncompressed TIFF of 2 × 3 pixels, as GIS programs write them; all of its numbers are ones."""
    data = b"\x01" * (6 * bands * bits // 8)
    depths = struct.pack(f"<{bands}H", *[bits] * bands)
    kinds = struct.pack(f"<{bands - 3}H", *[0] * (bands - 3))
    start = 8 + len(data)
    entries = [
        (256, 3, 1, 2), (257, 3, 1, 3), (258, 3, bands, start), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 8),
        (277, 3, 1, bands), (278, 3, 1, 3), (279, 4, 1, len(data)), (284, 3, 1, 1),
        (338, 3, bands - 3, start + len(depths)) if bands > 5 else (338, 3, bands - 3, 0),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    place = start + len(depths) + len(kinds)
    return b"II*\0" + struct.pack("<I", place) + data + depths + kinds + directory + struct.pack("<I", 0)


@pytest.mark.parametrize(("bands", "bits"), [(5, 8), (6, 8), (12, 16), (13, 8)])
def test_images_of_several_bands_say_so(tmp_path, bands, bits):
    """Of five bands of bytes Pillow reads three without a word; of twelve it knows nothing."""
    (tmp_path / "a.tif").write_bytes(tiff(bands, bits))
    with pytest.raises(OSError, match=f"it has {bands} bands; image files of up to four bands are read here"):
        read_image(tmp_path / "a.tif")


def test_four_bands_are_red_green_and_blue(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(4, 8))
    assert read_image(tmp_path / "a.tif").getpixel((1, 2)) == (1, 1, 1)
