"""Reading image files of any mode, and preparing them as the model's library does."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform
from torchvision.models import get_model_weights

from lightning_cam.cli.errors import UsageError
from lightning_cam.cli.images import find_images, read_image
from lightning_cam.cli.models import create_model
from lightning_cam.cli.preprocessing import Preprocessing, given, of_torchvision


def picture(height=48, width=64):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_folder_is_searched_with_all_below_it(tmp_path):
    for name in ("b.JPG", "a/c.webp", "a/d/e.tiff", "f.bmp", "notes.txt", "out/g.png"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".txt":
            file.write_text("no image")
        else:
            Image.new("RGB", (2, 2)).save(file)
    root, files = find_images(str(tmp_path), exclude=tmp_path / "out")
    assert root == tmp_path
    assert [file.relative_to(tmp_path).as_posix() for file in files] == ["a/c.webp", "a/d/e.tiff", "b.JPG", "f.bmp"]


def test_a_glob_pattern_keeps_its_fixed_part_as_root(tmp_path):
    for name in ("x/1.png", "y/2.png", "y/z/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    root, files = find_images(f"{tmp_path}/*/*.png")
    assert (root, [file.name for file in files]) == (tmp_path, ["1.png", "2.png"])
    assert [file.name for file in find_images(f"{tmp_path}/**/*.png")[1]] == ["1.png", "2.png", "3.png"]


def test_nothing_found_says_what_would_do(tmp_path):
    with pytest.raises(UsageError, match=r"--path: no image .* expected a file, a folder or a quoted glob"):
        find_images(str(tmp_path))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_lossless_formats_keep_every_pixel(tmp_path, suffix):
    file = tmp_path / f"image.{suffix}"
    Image.fromarray(picture()).save(file, lossless=True)
    assert np.array_equal(np.asarray(read_image(file)), picture())


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr"])
def test_modes_without_transparency_become_rgb(tmp_path, mode):
    file = tmp_path / "image.tiff"
    original = Image.fromarray(picture()).convert(mode)
    original.save(file)
    assert np.array_equal(np.asarray(read_image(file)), np.asarray(original.convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_gray_keeps_its_upper_8_bits(tmp_path, suffix):
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"image.{suffix}")
    read = np.asarray(read_image(tmp_path / f"image.{suffix}"))
    assert read.shape == (1, 4, 3)
    assert read[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_gray_without_a_range_is_stretched(tmp_path, dtype):
    Image.fromarray(np.array([[-10, 0, 10]], dtype=dtype)).save(tmp_path / "image.tiff")
    assert np.asarray(read_image(tmp_path / "image.tiff"))[0, :, 0].tolist() == [0, 128, 255]


def test_transparency_is_laid_on_white(tmp_path):
    image = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 51, 255)):
        image.putpixel((x, 0), (0, 0, 0, alpha))
    image.save(tmp_path / "image.png")
    assert np.asarray(read_image(tmp_path / "image.png"))[0, :, 0].tolist() == [255, 204, 0]


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image = Image.new("RGB", (40, 20), "black")
    image.paste("white", (0, 0, 20, 20))
    image.save(tmp_path / "image.jpg", exif=exif)
    read = np.asarray(read_image(tmp_path / "image.jpg"))
    assert read.shape == (40, 20, 3)
    assert read[:18].min() > 240 and read[22:].max() < 15


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mobilevitv2_050", "beit_base_patch16_224"]
)
@pytest.mark.parametrize("size", [(300, 500), (640, 200), (100, 90)])
def test_preprocessing_is_timm_s_own(name, size):
    # Only the configuration is needed, not the model.
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    from lightning_cam.cli.preprocessing import of_timm

    image = Image.fromarray(picture(*size))
    expected = create_transform(**config, is_training=False)(image)
    assert torch.equal(of_timm(config)(image), expected)


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "swin_v2_t"])
@pytest.mark.parametrize("size", [(300, 500), (640, 200)])
def test_preprocessing_is_torchvision_s_own(name, size):
    transforms = get_model_weights(name).DEFAULT.transforms()
    image = Image.fromarray(picture(*size))
    assert torch.equal(of_torchvision(transforms)(image), transforms(image))


@pytest.mark.parametrize("size", [(300, 500), (640, 200), (224, 224)])
def test_the_seen_box_is_what_the_crop_leaves(size):
    """A picture whose pixels hold their own coordinates says after preprocessing where each came from."""
    height, width = size
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    prepare = Preprocessing((32, 32), resize=40, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="bilinear")
    scaled = torch.stack([y / height, x / width, x * 0]).permute(1, 2, 0) * 255
    pixels = prepare(Image.fromarray(scaled.byte().numpy()))
    left, top, right, bottom = prepare.seen(size)
    cell = min(size) / 40
    tolerance = max(size) / 255 + 0.5  # of a coordinate in 8 bits, and half a pixel of rounding
    assert pixels[0, 0, 0] * height == pytest.approx(top + cell / 2, abs=tolerance)
    assert pixels[0, -1, 0] * height == pytest.approx(bottom - cell / 2, abs=tolerance)
    assert pixels[1, 0, 0] * width == pytest.approx(left + cell / 2, abs=tolerance)
    assert pixels[1, 0, -1] * width == pytest.approx(right - cell / 2, abs=tolerance)


def test_without_a_crop_all_is_seen():
    assert Preprocessing((32, 48)).seen((300, 500)) == (0, 0, 500, 300)


def test_what_is_given_goes_before_what_the_model_says():
    known = Preprocessing((224, 224), resize=248)
    assert given(known, None, None, None, None) == known
    assert given(known, 32, None, None, None) == Preprocessing((32, 32), resize=None)
    assert given(known, (32, 64), 80, [0.5], [0.2]) == Preprocessing((32, 64), 80, (0.5,), (0.2,))
    assert given(known, 32, None, 0.5, [0.1, 0.2, 0.3]) == Preprocessing((32, 32), None, (0.5,) * 3, (0.1, 0.2, 0.3))
    assert given(known, 32, None, 0.5, 0.2) == Preprocessing((32, 32), None, (0.5,) * 3, (0.2,) * 3)
    for mean, std in [([0.5], None), (None, 0.5), ([0.5], [0.1, 0.2])]:
        with pytest.raises(UsageError, match="--mean, --std: give both"):
            given(known, None, None, mean, std)


def test_a_model_made_for_another_size_or_gray_is_prepared_so():
    model = create_model("vit_tiny_patch16_224", {"img_size": 96, "in_chans": 1, "depth": 1})
    assert model.preprocessing.image_size == (96, 96)
    assert model.preprocessing(Image.fromarray(picture())).shape == (1, 96, 96)
