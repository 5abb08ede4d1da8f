"""Pictures of every mode are read as the pixels that a person sees. Every other file is refused in one line."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parity.data import image_files
from parity.errors import InputError

SIZE = (3, 6, 8)
SEEN = np.random.default_rng(5).integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY = SEEN[..., 0]
ALPHA = np.random.default_rng(6).integers(0, 256, (6, 8), dtype=np.uint8)
HOLE = np.zeros((6, 8), bool)
HOLE[:2, 3:] = True


def planes(pixels: np.ndarray) -> np.ndarray:
    """[H,W,3] or grey [H,W] -> [3,H,W]."""
    return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else np.stack([pixels] * 3)


def palette() -> Image.Image:
    """48 pixels, each of its own colour; the last one is 47."""
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8), "P")
    picture.putpalette(SEEN.reshape(-1, 3).tobytes())
    return picture


def on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return planes(pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=2)) * share[..., 0] + 255 * (
        1 - share[..., 0]
    )


def with_hole(pixels: np.ndarray) -> np.ndarray:
    seen = planes(pixels).copy()
    seen[:, HOLE] = 255
    return seen


def save(picture: Image.Image, path: Path, **options: object) -> Path:
    picture.save(path, **options)
    return path


# What is read


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.bmp", "a.ppm", "a.webp", "picture without a suffix"])
def test_a_colour_picture_of_the_networks_size_is_its_own_pixels(name: str, tmp_path: Path) -> None:
    kind = {"a.bmp": "BMP", "a.ppm": "PPM", "a.webp": "WEBP"}.get(name, "PNG")
    found = image_files.read(save(Image.fromarray(SEEN), tmp_path / name, format=kind, lossless=True), SIZE)
    assert (found.dtype, found.flags.c_contiguous) == (np.uint8, True)
    assert np.array_equal(found, planes(SEEN))


def test_a_jpeg_is_what_pil_decodes(tmp_path: Path) -> None:
    path = save(Image.fromarray(SEEN), tmp_path / "a.jpg", quality=95)
    assert np.array_equal(image_files.read(path, SIZE), planes(np.asarray(Image.open(path))))


def test_grey_and_black_and_white_become_three_equal_planes(tmp_path: Path) -> None:
    assert np.array_equal(image_files.read(save(Image.fromarray(GREY), tmp_path / "l.png"), SIZE), planes(GREY))
    bits = Image.fromarray(GREY > 127)
    assert bits.mode == "1"
    assert np.array_equal(image_files.read(save(bits, tmp_path / "1.png"), SIZE), planes((GREY > 127) * np.uint8(255)))


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_palette_is_looked_up(suffix: str, tmp_path: Path) -> None:
    assert np.array_equal(image_files.read(save(palette(), tmp_path / f"a.{suffix}"), SIZE), planes(SEEN))


def test_sixteen_bits_of_grey_are_scaled_not_clipped(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 257
    png = save(Image.fromarray(deep), tmp_path / "a.png")
    assert Image.open(png).mode.startswith("I")
    pgm = tmp_path / "a.pgm"
    pgm.write_bytes(b"P5 8 6 65535\n" + deep.astype(">u2").tobytes())
    between = save(Image.fromarray(deep.clip(0, 65535 - 128) + np.uint16(128)), tmp_path / "b.png")
    for path in (png, pgm, between):
        assert np.array_equal(image_files.read(path, SIZE), planes(GREY)), path


@pytest.mark.parametrize("pixels", [SEEN, GREY], ids=["RGBA", "LA"])
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_what_is_transparent_lies_on_white(pixels: np.ndarray, suffix: str, tmp_path: Path) -> None:
    picture = Image.fromarray(np.dstack([pixels, ALPHA]))
    found = image_files.read(save(picture, tmp_path / f"a.{suffix}", lossless=True, exact=True), SIZE)
    assert np.abs(found - on_white(pixels, ALPHA)).max() <= 1
    assert found[:, ALPHA < 10].min() >= 240


def test_one_transparent_colour_lies_on_white_in_every_mode_that_can_have_one(tmp_path: Path) -> None:
    colour, grey, index = SEEN.copy(), GREY.copy(), np.asarray(palette()).copy()
    colour[HOLE], grey[HOLE], index[HOLE] = (1, 2, 3), 7, 200
    grey[~HOLE & (grey == 7)] = 8
    table = palette()
    table.putdata(index.ravel().tolist())
    table.putpalette(SEEN.tobytes() + bytes(3 * (256 - 48)))
    for name, picture, seen, key in (
        ("rgb.png", Image.fromarray(colour), SEEN, (1, 2, 3)),
        ("l.png", Image.fromarray(grey), grey, 7),
        ("p.png", table, SEEN, 200),
        ("p.gif", table, SEEN, 200),
    ):
        path = save(picture, tmp_path / name, transparency=key)
        assert np.array_equal(image_files.read(path, SIZE), with_hole(seen)), name


def test_cmyk_is_converted(tmp_path: Path) -> None:
    red = np.tile(np.array([0, 255, 255, 0], np.uint8), (6, 8, 1))
    path = save(Image.fromarray(red, "CMYK"), tmp_path / "a.jpg", quality=100)
    assert Image.open(path).mode == "CMYK"
    assert np.abs(image_files.read(path, SIZE).astype(int) - np.reshape([255, 0, 0], (3, 1, 1))).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["RGB", "grey 16", "palette"])
def test_a_picture_is_turned_upright_as_its_exif_says(orientation: int, kind: str, tmp_path: Path) -> None:
    turns = Image.Transpose
    undo = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_90,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_270,
    }
    upright = {
        "RGB": Image.fromarray(SEEN),
        "grey 16": Image.fromarray(GREY.astype(np.uint16) * 257),
        "palette": palette(),
    }
    picture = upright[kind]
    if orientation in undo:
        picture = picture.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(picture, tmp_path / "a.png", exif=exif)
    assert np.array_equal(image_files.read(path, SIZE), planes(GREY if kind == "grey 16" else SEEN))


@pytest.mark.filterwarnings("error")
def test_broken_exif_is_passed_over_in_silence(tmp_path: Path) -> None:
    broken = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0"
    path = save(Image.fromarray(SEEN), tmp_path / "a.png", exif=broken)
    with Image.open(path) as file, pytest.raises(UserWarning, match="EXIF"):
        file.getexif()
    assert np.array_equal(image_files.read(path, SIZE), planes(SEEN))


def test_a_picture_of_another_size_is_resized_as_a_whole_with_lanczos(tmp_path: Path) -> None:
    pixels = np.random.default_rng(7).integers(0, 256, (31, 90, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((8, 6), Image.Resampling.LANCZOS))
    assert np.array_equal(image_files.read(save(Image.fromarray(pixels), tmp_path / "a.png"), SIZE), planes(expected))
    one = image_files.read(save(Image.fromarray(SEEN[:1, :1]), tmp_path / "b.png"), (3, 32, 32))
    assert np.array_equal(one, np.broadcast_to(SEEN[0, 0][:, None, None], (3, 32, 32)))


def test_a_grey_network_gets_one_plane(tmp_path: Path) -> None:
    found = image_files.read(save(Image.fromarray(GREY), tmp_path / "a.png"), (1, 6, 8))
    assert np.array_equal(found, GREY[None])
    found = image_files.read(save(Image.fromarray(SEEN), tmp_path / "b.png"), (1, 6, 8))
    assert np.abs(found[0] - SEEN @ [0.299, 0.587, 0.114]).max() <= 1


def test_of_an_animation_the_first_picture_counts(tmp_path: Path) -> None:
    path = save(palette(), tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (8, 6), "red")])
    assert np.array_equal(image_files.read(path, SIZE), planes(SEEN))


def test_a_folder_is_the_pictures_in_it_sorted_and_a_file_is_itself(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.webp", "notes.txt", ".hidden.png", "d.tif"):
        (tmp_path / name).write_text("")
    found = image_files.listed([tmp_path / "notes.txt", tmp_path, tmp_path / "b.png"])
    assert [path.name for path in found] == ["notes.txt", "a.JPG", "b.png", "c.webp", "b.png"]
    (tmp_path / "sub").mkdir()
    with pytest.raises(InputError, match="sub holds no pictures"):
        image_files.listed([tmp_path / "sub"])


def test_what_a_folder_leaves_out_is_counted_and_named_once(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "d.tif", "c.avif", "e.HEIC", "f.txt", ".DS_Store"):
        (tmp_path / name).write_text("")
    for name in ("more", "looks_like.png", ".hidden"):
        (tmp_path / name).mkdir()
    said: list[str] = []
    assert [path.name for path in image_files.listed([tmp_path], said.append)] == ["a.JPG", "b.png"]
    assert said == [
        f"note: left out of {tmp_path}: 4 files of other formats (c.avif, d.tif, e.HEIC, ...), 2 sub-folders (looks_like.png, more); "
        "pictures are .bmp .gif .jpeg .jpg .pgm .png .ppm .webp"
    ]


def test_a_folder_of_which_nothing_is_left_out_gets_no_line(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("")
    (tmp_path / ".hidden.tif").write_text("")
    said: list[str] = []
    image_files.listed([tmp_path, tmp_path / "a.png"], said.append)
    assert said == []


def test_a_folder_of_other_formats_only_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_text("")
    (tmp_path / "cats").mkdir()
    with pytest.raises(
        InputError, match=r"only 1 file of another format .a.tif., 1 sub-folder .cats.: give another folder"
    ):
        image_files.listed([tmp_path])


# What is refused


def png(width: int, height: int, *extra: tuple[bytes, bytes]) -> bytes:
    """Return a PNG that states a size and holds almost no data."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), *extra]
    chunks += [(b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


TEXT_BOMB = (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000)))
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\nshowpage\n"
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "text": (b"not a picture\n", "is not a picture in a supported format (BMP, GIF, JPEG, PNG, PPM, WEBP)"),
    "signature only": (b"\x89PNG\r\n\x1a\n", "is not a picture"),
    "EPS, which PIL would give to Ghostscript": (EPS, "is not a picture"),
    "TIFF": (b"II*\0" + bytes(100), "is not a picture"),
    "bomb": (png(40_000, 40_000), "unpacks to more than 89,478,485 pixels"),
    "bomb that PIL only warns of": (png(10_000, 10_000), "unpacks to more than 89,478,485 pixels"),
    "bomb in a comment": (png(8, 6, TEXT_BOMB), "cannot be decoded"),
    "without its pixels": (png(800, 600), "cannot be decoded"),
    "floats": (b"Pf\n8 6\n-1.0\n" + bytes(4 * 48), "floats without a known range"),
}


def refused(path: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """Return the error of `read` for `path`: one line, and no other output."""
    with warnings.catch_warnings(), pytest.raises(InputError) as error:
        warnings.simplefilter("error")
        image_files.read(path, SIZE)
    assert capfd.readouterr() == ("", "")
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert str(path) in message
    assert "0x" not in message
    return message


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_no_picture_is_refused_in_one_line(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(BAD[kind][0])
    assert BAD[kind][1] in refused(path, capfd)


def test_what_is_no_regular_file_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for name, said in (
        ("none.png", "No such file"),
        ("x" * 300, "too long"),
        (".", "is a folder"),
        ("pipe.png", "is not a regular file"),
        ("loop.png", "cannot read"),
    ):
        assert said in refused(tmp_path / name, capfd)
    assert "is not a regular file" in refused(Path("/dev/zero"), capfd)


def test_a_file_too_large_for_a_picture_is_refused_unread(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = save(Image.fromarray(SEEN), tmp_path / "a.png")
    os.truncate(path, image_files.MOST_BYTES)
    image_files.read(path, SIZE)
    os.truncate(path, image_files.MOST_BYTES + 1)
    assert "100,000,001 bytes, more than the limit of 100,000,000" in refused(path, capfd)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "ppm"])
def test_a_truncated_picture_is_refused_wherever_it_ends(
    suffix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(8).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    path = save(Image.fromarray(pixels), tmp_path / f"a.{suffix}")
    whole = path.read_bytes()
    for share in np.linspace(0.01, 0.97, 25):
        path.write_bytes(whole[: int(share * len(whole))])
        refused(path, capfd)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp"])
def test_damage_anywhere_is_refused_in_one_line_or_changes_pixels_only(
    suffix: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(SEEN).save(path, **({} if suffix in ("bmp", "gif") else {"exif": exif}))
    whole, random = path.read_bytes(), np.random.default_rng(9)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] = random.integers(256)
        path.write_bytes(damaged)
        try:
            found = image_files.read(path, SIZE)
        except InputError as error:
            assert len(str(error).splitlines()) == 1
            assert str(path) in str(error)
        else:
            assert (found.shape, found.dtype) == (SIZE, np.uint8)
    assert capfd.readouterr() == ("", "")
