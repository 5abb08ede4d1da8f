"""What a file is that a suffix calls something else: told from its first bytes, before anything reads it."""

from __future__ import annotations

import zipfile
from pathlib import Path

from parity.errors import InputError

MAGIC = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: run git lfs pull",
    b"\x89HDF": "an HDF5 file, not a state dict: load it where it was made, and save only model.state_dict()",
    b"\x93NUMPY": "a numpy array (.npy): save a state_dict() whose values are tensors",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
}
"""First bytes -> what the file is, and what to do."""

TORCH = (".pt", ".pth", ".ckpt", ".bin")

OLD_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The magic number of torch.save without a zip, as it is pickled."""


def check_kind(path: Path, suffix: str) -> None:
    """Raise `InputError`, naming the file, if `path` is plainly something else than weights with this `suffix`, and say what it is."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
        if found := _kind(path, head, suffix):
            raise InputError(f"{path}: it is {found}")
    except OSError:
        return  # whoever reads it says why it cannot


def _kind(path: Path, head: bytes, suffix: str) -> str | None:
    if found := next((text for magic, text in MAGIC.items() if head.startswith(magic)), None):
        return found
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "a web page, not a file of weights: download the file itself"
    if head.startswith(b"PK\3\4") and suffix != ".tar":
        return _zip_kind(path, suffix)
    return _other_kind(head, suffix)


def _other_kind(head: bytes, suffix: str) -> str | None:
    if not head:
        return "empty: take another copy"
    if head[8:9] == b"{" and b'"dtype"' in head and suffix != ".safetensors":
        return "a safetensors file: rename it to .safetensors"
    if head.startswith(b"\x80") and suffix in TORCH and OLD_MAGIC not in head[:64]:
        return (
            "a pickle that torch.save did not write: rename it to .pdparams if paddle.save did, or "
            "save torch.save(model.state_dict(), 'model.pth')"
        )
    if not any(head[:16]) and head[20:21] == b"\x08" and suffix == ".pdparams":
        return "a file of Paddle's inference models, not a state dict: save paddle.save(model.state_dict(), 'model.pdparams')"
    return None


def _zip_kind(path: Path, suffix: str) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return None  # damaged: whoever reads it says so
    ends = {name.rpartition("/")[2] for name in names}
    if names and all(name.endswith(".npy") for name in names):
        return "a numpy archive (.npz): save a state_dict() whose values are tensors"
    if "archive_format" in ends or "archive_version" in ends:
        return "a program of torch.export, not a state dict: save only its state_dict()"
    if "data.pkl" not in ends:
        return "a zip archive of other files: unpack it first" if "constants.pkl" not in ends else None
    return None if suffix in TORCH else "a file of PyTorch: rename it to .pth"
