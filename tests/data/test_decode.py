import io

import numpy as np
import pytest
import torch
from PIL import Image

from t2ilab.data.decode import CorruptImage, UnsupportedImage, decode, fit, to_rgb, to_tensor

ORIENTATION = 0x0112


def smooth(width=48, height=32):
    """An image without symmetry: red grows to the right, green downwards."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), np.full_like(x, 60)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def pixels(image):
    return np.asarray(image, dtype=np.int64)


def distance(first, second):
    return np.abs(pixels(first) - pixels(second)).mean()


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_come_back_as_they_are(form):
    assert np.array_equal(pixels(decode(saved(smooth(), form)).image), pixels(smooth()))


@pytest.mark.parametrize(
    ("form", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95}), ("GIF", {})]
)
def test_lossy_formats_come_back_nearly(form, options):
    decoded = decode(saved(smooth(), form, **options))
    assert (decoded.width, decoded.height) == (48, 32)
    assert distance(decoded.image, smooth()) < 8


LAY = {  # how a camera would have stored the upright image under each EXIF orientation
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", LAY)
def test_every_exif_orientation_is_set_upright(orientation, form):
    stored = smooth() if LAY[orientation] is None else smooth().transpose(LAY[orientation])
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    decoded = decode(saved(stored, form, exif=exif, **({"quality": 95} if form == "JPEG" else {})))
    assert (decoded.width, decoded.height) == (48, 32)
    assert distance(decoded.image, smooth()) < (4 if form == "JPEG" else 1e-9)


def test_what_is_transparent_is_white_and_what_is_half_is_between():
    image = Image.new("RGBA", (3, 1))
    image.putdata([(255, 0, 0, 0), (255, 0, 0, 255), (200, 0, 0, 128)])
    assert pixels(decode(saved(image, "PNG")).image)[0].tolist() == [
        [255, 255, 255],
        [255, 0, 0],
        [227, 127, 127],
    ]


def test_grey_with_alpha_lies_on_white():
    image = Image.new("LA", (2, 1))
    image.putdata([(10, 0), (10, 255)])
    assert pixels(decode(saved(image, "PNG")).image)[0].tolist() == [[255] * 3, [10] * 3]


def test_a_palette_with_a_transparent_entry_lies_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 20, 40, 60])
    image.putdata([0, 1])
    for data in (saved(image, "PNG", transparency=0), saved(image, "GIF", transparency=0)):
        assert pixels(decode(data).image)[0].tolist() == [[255] * 3, [20, 40, 60]]
    assert pixels(decode(saved(image, "PNG")).image)[0].tolist() == [[0] * 3, [20, 40, 60]]


def test_a_transparent_colour_of_an_rgb_file_is_white():
    image = Image.new("RGB", (2, 1))
    image.putdata([(1, 2, 3), (9, 9, 9)])
    assert pixels(decode(saved(image, "PNG", transparency=(1, 2, 3))).image)[0].tolist() == [
        [255] * 3,
        [9] * 3,
    ]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(form):
    values = np.array([[0, 257, 128 * 257, 40000, 65535]], dtype=np.uint16)
    decoded = decode(saved(Image.fromarray(values), form))
    assert pixels(decoded.image)[0, :, 0].tolist() == [0, 1, 128, 156, 255]
    assert np.ptp(pixels(decoded.image), axis=2).max() == 0


def test_floats_between_zero_and_one_are_grey_and_others_are_refused():
    good = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    assert pixels(decode(saved(Image.fromarray(good), "TIFF")).image)[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(UnsupportedImage, match="mode F"):
        decode(saved(Image.fromarray(good * 300), "TIFF"))


@pytest.mark.parametrize(
    "mode", ["L", "1", "P", "CMYK", "YCbCr", "RGBA", "LA", "PA", "HSV", "I", "F", "RGBa", "La"]
)
def test_every_mode_becomes_rgb(mode):
    image = Image.new(mode, (4, 4))
    assert to_rgb(image).mode == "RGB"
    assert to_tensor(to_rgb(image)).shape == (3, 4, 4)


def test_cmyk_ink_takes_light_away():
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for data in (saved(image, "TIFF"), saved(image, "JPEG", quality=95)):
        assert pixels(decode(data).image)[8, 8].tolist() == pytest.approx([0, 255, 255], abs=3)


def test_the_first_image_of_an_animation_is_taken():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for form in ("GIF", "WEBP"):
        data = saved(
            frames[0],
            form,
            save_all=True,
            append_images=frames[1:],
            **({"lossless": True} if form == "WEBP" else {}),
        )
        assert pixels(decode(data).image)[0, 0].tolist() == [255, 0, 0]


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("keep", [0.0, 0.0005, 0.1, 0.5, 0.95])
def test_a_truncated_file_is_corrupt_at_full_and_at_reduced_scale(form, keep):
    data = saved(noise(160, 120), form)
    part = data[: int(len(data) * keep)]
    for at_least in (None, 1):
        with pytest.raises(CorruptImage):
            decode(part, at_least=at_least)


def test_bytes_that_are_no_image_are_corrupt():
    with pytest.raises(CorruptImage, match="no known image format"):
        decode(b"<html>not found</html>")


def test_a_decompression_bomb_is_refused_unread():
    header = bytearray(saved(Image.new("1", (8, 8)), "BMP"))
    header[18:26] = (50000).to_bytes(4, "little") * 2
    with pytest.raises(UnsupportedImage, match="pixels"):
        decode(bytes(header))


@pytest.mark.parametrize(("width", "height"), [(64, 64), (200, 64), (64, 201), (97, 333), (20, 31)])
def test_fit_keeps_the_middle_square_at_its_proportions(width, height):
    side, resolution = min(width, height), 32
    exact = smooth(width, height).resize((round(width * 4), round(height * 4)), Image.Resampling.BICUBIC)
    left, top = (exact.width - 4 * side) // 2, (exact.height - 4 * side) // 2
    reference = exact.crop((left, top, left + 4 * side, top + 4 * side)).resize(
        (resolution, resolution), Image.Resampling.BOX
    )
    got = fit(smooth(width, height), resolution, resolution)
    assert got.size == (resolution, resolution)
    assert distance(got, reference) < 1.5


def test_fit_averages_what_is_finer_than_a_pixel():
    checks = Image.fromarray((np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)).convert("RGB")
    assert np.abs(pixels(fit(checks, 32, 32)) - 127.5).max() <= 1


def test_a_large_jpeg_decoded_at_reduced_scale_gives_the_same_image():
    data = saved(smooth(1600, 1200), "JPEG", quality=95)
    quick, whole = decode(data, at_least=64), decode(data)
    assert quick.image.width < whole.image.width == quick.width == 1600
    assert min(quick.image.size) >= 128
    assert distance(fit(quick.image, 64, 64), fit(whole.image, 64, 64)) < 1


def test_a_tensor_has_channels_first():
    tensor = to_tensor(smooth())
    assert tensor.shape == (3, 32, 48)
    assert tensor.dtype is torch.uint8
    assert tensor[:, 0, -1].tolist() == [255, 0, 60]
