"""Files of other people: whole images with odd things beside them, broken ones, kinds that are not read right."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from t2ilab.data.decode import CorruptImage, UnsupportedImage, decode
from tests.data.damage import (
    CODED,
    FORMS,
    exif,
    file_of,
    harmed,
    jpeg_with,
    photograph,
    png_with,
    tiff_with,
    zeros_from,
)

TURNED = (0x0112, 3, 1, struct.pack("<H", 6))  # Orientation: the top of the image lies to the right
LONG = b"x" * (3 << 20)
BAD = b"\0\0\0\0"  # a checksum


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def pixels(data):
    return np.asarray(decode(data).image)


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"zTXt", b"workflow\0\0" + zlib.compress(LONG))],
        [(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(LONG))],
        [(b"zTXt", b"a\0\0" + zlib.compress(LONG[: 1 << 20]))] * 80,
        [(b"iCCP", b"icc\0\0" + zlib.compress(bytes(2 << 20)))],
        [(b"iCCP", b"icc\0\0not compressed at all")],
        [(b"eXIf", b"garbage")],
        [(b"eXIf", exif(TURNED)[:20])],
        [(b"tEXt", b"words\0w", BAD)],
        [(b"pHYs", b"\0")],
        [(b"tIME", b"", BAD), (b"zTXt", b"broken\0\0broken"), (b"gAMA", b"")],
        [(b"iTXt", b"")],
        [(b"xyZz", LONG)],
    ],
)
def test_a_png_is_read_whatever_its_ancillary_chunks_hold(chunks):
    wanted = pixels(file_of("png"))
    assert np.array_equal(pixels(png_with(*chunks)), wanted)
    assert np.array_equal(pixels(png_with(*chunks, after=-12)), wanted), "behind the pixels"


@pytest.mark.parametrize("chunk", [(b"zTXt", b"a\0\0" + zlib.compress(LONG)), (b"tEXt", b"a\0b", BAD)])
def test_a_png_with_odd_text_keeps_its_orientation_and_transparency(chunk):
    turned = png_with((b"eXIf", exif(TURNED)), chunk)
    assert np.array_equal(pixels(turned), np.rot90(pixels(file_of("png")), -1))
    first = pixels(file_of("png"))[0, 0]
    clear = png_with((b"tRNS", b"".join(struct.pack(">H", value) for value in first)), chunk)
    assert pixels(clear)[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    "entries",
    [
        [TURNED, (0x011A, 2, 3, b"72\0")],
        [TURNED, (0x0100, 8, 1, struct.pack("<h", -1))],
        [TURNED, (0x0131, 1, 1, b"\xff"), (0x8769, 2, 4, b"abc\0")],
        [TURNED, (0x011A, 5, 1, struct.pack("<II", 72, 0)), (0x0128, 3, 1, b"\2\0")],
        [TURNED, (0x9286, 7, 1 << 30, b"\xff\xff\xff\x7f")],
        [TURNED, (0x8825, 4, 1, struct.pack("<I", 1 << 31))],
    ],
)
def test_a_jpeg_stands_upright_whatever_other_tags_its_exif_has(entries):
    upright = np.rot90(pixels(file_of("jpeg")), -1)
    assert np.array_equal(pixels(jpeg_with((0xE1, b"Exif\0\0" + exif(*entries)))), upright)


@pytest.mark.parametrize(
    "segment",
    [
        (0xE1, b"Exif\0\0garbage"),
        (0xE1, b"Exif\0\0" + exif((0x0112, 2, 4, b"six\0"))),
        (0xE1, b"Exif\0\0" + exif((0x0112, 3, 1, struct.pack("<H", 77)))),
        (0xE1, b"Exif\0\0"),
        (0xE2, b"ICC_PROFILE\0\7\3not a profile"),
        (0xE2, b"ICC_PROFILE\0"),
        (0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff"),
        (0xE2, b"MPF\0" + exif((0xB001, 4, 1, struct.pack("<I", 9)))),
        (0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\xff\xff"),
        (0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\0\0\0\x10" + b"\0"),
        (0xEB, b"HDR_RI"),
        (0xFE, b"\xff\xfe\0"),
    ],
)
def test_a_jpeg_is_read_whatever_its_applications_wrote(segment):
    assert np.array_equal(pixels(jpeg_with(segment)), pixels(file_of("jpeg")))


def test_a_cmyk_jpeg_with_a_broken_segment_keeps_its_adobe_marker():
    file = io.BytesIO()
    Image.new("CMYK", (32, 32), (200, 30, 0, 20)).save(file, "JPEG", quality=95)
    whole = file.getvalue()
    odd = whole[:2] + b"\xff\xe2\0\x0aMPF\0II*\0"[:12] + whole[2:]
    assert np.array_equal(pixels(odd), pixels(whole))


@pytest.mark.parametrize(
    "entry",
    [
        (282, 2, 3, b"72\0"),
        (305, 3, 1, b"\1\0"),
        (34675, 4, 1, b"\0\0\0\x70"),
        (34665, 4, 1, b"\0\0\0\x70"),
        (33432, 99, 7, b"\1\2\3\4"),
        (700, 7, 1 << 30, b"\0\0\0\x70"),
        (700, 3, 2, b"\1\0\2\0"),
        (34665, 4, 1, b"\xff\xff\xff\xf0"),
    ],
)
def test_a_tiff_is_read_whatever_its_other_tags_hold(entry):
    grey = np.arange(32 * 24, dtype=np.int64).reshape(24, 32) % 256
    entries = [(258, 3, 8), (262, 3, 1)]
    whole = tiff_with(entries, grey.astype(np.uint8).tobytes(), 32, 24)
    tag, kind, count, value = entry
    number = struct.unpack("<H", whole[8:10])[0]
    own = [whole[10 + 12 * k : 22 + 12 * k] for k in range(number)]
    own.append(struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0"))
    own.sort(key=lambda item: struct.unpack("<H", item[:2]))
    start = len(whole)
    directory = struct.pack("<H", len(own)) + b"".join(own) + bytes(4)
    odd = whole[:4] + struct.pack("<I", start) + whole[8:] + directory
    assert np.array_equal(pixels(odd)[..., 0], grey)


def test_sixteen_bits_in_separate_planes_are_refused_and_never_read_as_stripes():
    tifffile = pytest.importorskip("tifffile")
    values = np.asarray(photograph(), dtype=np.uint16) * 257
    for compression in (None, "zlib"):
        file = io.BytesIO()
        planes = np.moveaxis(values, -1, 0)
        tifffile.imwrite(file, planes, photometric="rgb", planarconfig="separate", compression=compression)
        with pytest.raises(UnsupportedImage, match="16 bits in separate planes"):
            decode(file.getvalue())
        file = io.BytesIO()
        tifffile.imwrite(file, values, photometric="rgb", planarconfig="contig", compression=compression)
        assert np.array_equal(pixels(file.getvalue()), np.asarray(photograph()))
        file = io.BytesIO()
        planes = np.moveaxis(np.asarray(photograph()), -1, 0)
        tifffile.imwrite(file, planes, photometric="rgb", planarconfig="separate", compression=compression)
        assert np.array_equal(pixels(file.getvalue()), np.asarray(photograph()))


@pytest.mark.parametrize(
    ("entries", "depth", "why"),
    [
        ([(258, 3, 12), (262, 3, 1)], 1.5, "12 bits"),
        ([(258, 3, 16), (262, 3, 0)], 2, "white is 0"),
        ([(258, 3, 16), (262, 3, 1), (339, 3, 2)], 2, "signed"),
        ([(258, 3, 8), (262, 3, 1), (339, 3, 2)], 1, "signed"),
        ([(258, 3, 16), (262, 3, 32803)], 2, "not read here"),
        ([(258, 3, 64), (262, 3, 1), (339, 3, 3)], 8, "not read here"),
    ],
)
def test_a_tiff_that_would_come_out_wrong_is_unsupported(entries, depth, why):
    with pytest.raises(UnsupportedImage, match=why):
        decode(tiff_with(entries, bytes(int(32 * 24 * depth)), 32, 24))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_is_scaled(bits):
    levels = np.arange(32 * 24).reshape(24, 32) % 2**bits
    packed = np.packbits((levels[..., None] >> np.arange(bits)[::-1]) & 1)
    decoded = pixels(tiff_with([(258, 3, bits), (262, 3, 1)], packed.tobytes(), 32, 24))
    assert np.array_equal(decoded[..., 0], levels * 255 // (2**bits - 1))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\0\0\0\x18ftypheic....", "HEIC"),
        (b"\xff\x0a....", "JPEG XL"),
        (b"\0\0\0\x18ftypmp42....", "a video"),
        (b"%PDF-1.7", "a PDF"),
        (b"<?xml version='1.0'?><svg>", "SVG"),
    ],
)
def test_a_file_of_another_kind_under_the_name_of_an_image_is_told_by_its_bytes(data, why):
    with pytest.raises(UnsupportedImage, match=f"it is {why}, whatever its suffix"):
        decode(data)


def test_a_script_that_calls_itself_an_image_is_not_run():
    with pytest.raises(UnsupportedImage, match="format EPS"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n")


@pytest.mark.parametrize("kind", CODED)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_half_a_download_is_corrupt(kind, share):
    data = file_of(kind)
    for broken in (zeros_from(data, share), data[: int(share * len(data))]):
        with pytest.raises(CorruptImage):
            decode(broken)


@pytest.mark.parametrize("kind", FORMS)
def test_zeros_behind_a_whole_image_do_no_harm(kind):
    assert np.array_equal(pixels(file_of(kind) + bytes(4096)), pixels(file_of(kind)))


def test_a_video_behind_a_photograph_does_no_harm_though_it_ends_in_zeros():
    assert np.array_equal(pixels(file_of("jpeg") + b"....ftypmp42" + bytes(200)), pixels(file_of("jpeg")))


def test_a_changed_bit_among_the_pixels_of_a_png_is_seen():
    data, chance = file_of("png"), random.Random(3)
    for _ in range(20):
        at = chance.randrange(41, len(data) - 20)
        broken = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        with pytest.raises(CorruptImage):
            decode(broken)


def test_no_pixels_and_far_too_many_are_named():
    def sized(width, height):
        head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return file_of("png")[:12] + head + zlib.crc32(head).to_bytes(4) + file_of("png")[33:]

    with pytest.raises(CorruptImage):
        decode(sized(0, 7))
    with pytest.raises(UnsupportedImage, match="more than 178,956,970 pixels"):
        decode(sized(60000, 60000))
    with pytest.raises((CorruptImage, UnsupportedImage)):
        decode(sized(2**31 - 1, 2**31 - 1))


def test_a_single_pixel_is_an_image():
    file = io.BytesIO()
    Image.new("RGB", (1, 1), (3, 2, 1)).save(file, "PNG")
    assert pixels(file.getvalue()).tolist() == [[[3, 2, 1]]]


@pytest.mark.parametrize(
    "error", [RuntimeError("odd"), struct.error("short"), RecursionError(), AssertionError()]
)
def test_whatever_a_decoder_raises_is_a_corrupt_image(monkeypatch, error):
    def fails(*arguments):
        raise error

    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "GIF")
    monkeypatch.setattr(Image.Image, "convert", fails)
    with pytest.raises(CorruptImage, match=str(error) or type(error).__name__):
        decode(file.getvalue())


def look_at(data):
    try:
        return pixels(data).shape
    except (CorruptImage, UnsupportedImage, MemoryError) as error:
        return str(error)


@pytest.mark.parametrize("kind", FORMS)
def test_a_harmed_file_is_an_image_or_has_a_named_fault(kind):
    data, chance = file_of(kind), random.Random(kind)
    assert all(look_at(harmed(data, chance)) is not None for _ in range(20))


@pytest.mark.proof
@pytest.mark.parametrize("kind", FORMS)
def test_hundreds_of_harmed_files_are_images_or_have_a_named_fault(kind):
    data, chance = file_of(kind), random.Random(f"many {kind}")
    for number in range(400):
        broken = harmed(data, chance)
        for _ in range(number % 3):
            broken = harmed(broken, chance) if broken else broken
        assert look_at(broken) is not None
