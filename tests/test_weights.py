"""Initial weights are those of the formulas, and checkpoint files are whole, strict and atomic."""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from parity import networks, weights
from parity.errors import InputError
from parity.network import Network
from parity.nodes import BatchNorm, Init, Linear, ReLU
from parity.weights import State, check, initialise, load, save, slot_names, write_atomically

SMALL = networks.get("vgg16_bn_drop@0.03125")
NAMES = list(networks.NETWORKS)


def digest(state: State) -> str:
    parts = hashlib.sha256()
    for name, array in state.items():
        parts.update(name.encode() + array.astype("<f4").tobytes())
    return parts.hexdigest()


@pytest.fixture(scope="module")
def fresh() -> dict[str, State]:
    return {name: initialise(networks.get(name), 1) for name in NAMES}


# ------------------------------------------------------------------------------------------------- initialise


@pytest.mark.parametrize("name", NAMES)
def test_the_state_holds_every_array_in_order_in_float32(fresh: dict[str, State], name: str) -> None:
    parameters = networks.get(name).parameters
    assert list(fresh[name]) == list(parameters)
    for array, parameter in zip(fresh[name].values(), parameters.values(), strict=True):
        assert array.shape == parameter.shape
        assert array.dtype == np.float32
        assert array.flags.c_contiguous


def test_the_same_seed_gives_the_same_bits() -> None:
    assert digest(initialise(SMALL, 3)) == digest(initialise(SMALL, 3))


# The same numbers under numpy 1 and 2, in both lanes and in years to come: seeds in old checkpoints keep their meaning.
PINNED = {
    "vgg16_bn_drop@0.03125": "e269ea100f8df2dd9fd1008d22cad80a78595ece7fa97dd649da875a96689442",
    "vgg_mini@0.03125": "0dfc6bcaa73ca44de4a4ae1b5424d68a97b5e0d945894bf72c61468674f8660b",
}


@pytest.mark.parametrize("name", PINNED)
def test_a_seed_means_the_same_weights_under_every_version_of_numpy(name: str) -> None:
    assert digest(initialise(networks.get(name), 1)) == PINNED[name]


def test_another_seed_gives_other_numbers_in_every_array_that_is_drawn() -> None:
    network = networks.get("vgg_mini@0.03125")
    one, two = initialise(network, 1), initialise(network, 2)
    for name, parameter in network.parameters.items():
        same = (one[name] == two[name]).mean()
        assert same == 1 if parameter.init.distribution == "constant" else same < 0.01


def test_an_arrays_numbers_depend_on_its_name_and_not_on_its_neighbours() -> None:
    alone = Network("a", (6,), (Linear("fc", 5),))
    after = Network("b", (6,), (Linear("before", 6), BatchNorm("bn"), Linear("fc", 5)))
    renamed = Network("c", (6,), (Linear("fc2", 5),))
    weight = initialise(alone, 4)["fc.weight"]
    assert np.array_equal(weight, initialise(after, 4)["fc.weight"])
    assert not np.array_equal(weight, initialise(renamed, 4)["fc2.weight"])


def drawn(fresh: dict[str, State], name: str, distribution: str) -> Iterator[tuple[str, np.ndarray, int]]:
    """Name, float64 numbers and fan-in of every array of that distribution."""
    for parameter in networks.get(name).parameters.values():
        if parameter.init.distribution == distribution:
            fan = math.prod(networks.get(name).parameters[parameter.name.split(".")[0] + ".weight"].shape[1:])
            yield parameter.name, fresh[name][parameter.name].astype(np.float64).ravel(), fan


def test_normal_weights_have_the_mean_deviation_and_tails_of_the_articles_formulas(fresh: dict[str, State]) -> None:
    seen = 0
    for name, x, fan in drawn(fresh, "vgg16_bn_drop", "normal"):
        sigma, n = math.sqrt((2 if name.startswith("conv") else 1) / fan), x.size
        assert abs(x.mean()) < 5 * sigma / math.sqrt(n), name
        assert abs(x.std() / sigma - 1) < 5 / math.sqrt(2 * n), name
        within = 0.682689
        assert abs((abs(x) < sigma).mean() - within) < 5 * math.sqrt(within * (1 - within) / n), name
        assert 2.5 * sigma < abs(x).max() < 7 * sigma, name
        seen += 1
    assert seen == 16


def test_uniform_weights_and_biases_fill_their_bounds_evenly(fresh: dict[str, State]) -> None:
    seen = 0
    for name, x, fan in drawn(fresh, "vgg_mini", "uniform"):
        bound, n = 1 / math.sqrt(fan), x.size
        assert abs(x).max() <= np.float32(bound), name
        assert abs(x).max() > bound * (1 - 20 / n), name  # all n below that: e^-20
        assert abs(x.mean()) < 5 * bound / math.sqrt(3 * n), name
        assert abs(x.var() * 3 / bound**2 - 1) < 5 * math.sqrt(0.8 / n), name
        seen += 1
    assert seen == 18


@pytest.mark.parametrize("name,variance", [("vgg16_bn_drop", 0.0), ("vgg_mini", 1.0)])
def test_constants_are_exact(fresh: dict[str, State], name: str, variance: float) -> None:
    expected = {"gamma": 1.0, "beta": 0.0, "mean": 0.0, "variance": variance}
    for key, array in fresh[name].items():
        kind = key.partition(".")[2]
        if kind in expected:
            assert (array == expected[kind]).all(), key
    if name == "vgg16_bn_drop":
        assert all((array == 0).all() for key, array in fresh[name].items() if key.endswith(".bias"))


def test_arrays_of_one_shape_are_drawn_independently(fresh: dict[str, State]) -> None:
    names = [f"conv{g}_{i}.weight" for g, i in ((4, 2), (4, 3), (5, 1), (5, 2), (5, 3))]
    matrix = np.stack([fresh["vgg16_bn_drop"][name].ravel() for name in names])
    correlations = np.corrcoef(matrix) - np.eye(len(names))
    assert abs(correlations).max() < 5 / math.sqrt(matrix.shape[1])


def test_a_scale_without_a_fan_is_taken_as_it_is() -> None:
    network = Network("fixed", (400,), (Linear("fc", 400, init=Init("normal", 0.01), bias_init=Init("constant", 0.5)),))
    state = initialise(network, 0)
    assert abs(state["fc.weight"].std() / 0.01 - 1) < 5 / math.sqrt(2 * 160_000)
    assert (state["fc.bias"] == 0.5).all()


# ------------------------------------------------------------------------------------------------- check


def with_slots(network: Network, slots: tuple[str, ...]) -> State:
    state = initialise(network, 0)
    return state | {slot: state[name] * 2 for slot, name in slot_names(network, slots).items()}


def test_a_state_that_fits_passes_with_and_without_slots() -> None:
    check(SMALL, initialise(SMALL, 0))
    check(SMALL, with_slots(SMALL, ("velocity",)), ("velocity",))
    check(SMALL, with_slots(SMALL, ("moment1", "moment2")), ("moment1", "moment2"))


def test_slots_belong_to_trainable_parameters_only() -> None:
    names = slot_names(SMALL, ("moment1", "moment2"))
    assert len(names) == 2 * sum(parameter.trainable for parameter in SMALL.parameters.values())
    assert names["optimizer.moment2.bn_fc1.gamma"] == "bn_fc1.gamma"
    assert not any(name.endswith((".mean", ".variance")) for name in names)


@pytest.mark.parametrize("name", ["conv1_1.weight", "bn_fc1.variance", "fc3.bias", "optimizer.velocity.fc3.bias"])
def test_a_missing_array_is_named(name: str) -> None:
    state = with_slots(SMALL, ("velocity",))
    del state[name]
    with pytest.raises(InputError, match=rf"^{name} is missing .*{SMALL.name}"):
        check(SMALL, state, ("velocity",))


@pytest.mark.parametrize("name", ["fc4.weight", "bn_fc1.num_batches_tracked", "optimizer.moment1.fc3.bias"])
def test_an_array_too_many_is_named(name: str) -> None:
    state = with_slots(SMALL, ("velocity",)) | {name: np.zeros(3, np.float32)}
    with pytest.raises(InputError, match=rf"^{name} is not a parameter of network {SMALL.name}"):
        check(SMALL, state, ("velocity",))


def test_slots_that_nobody_asked_for_are_too_many() -> None:
    with pytest.raises(InputError, match=r"^optimizer\.velocity\."):
        check(SMALL, with_slots(SMALL, ("velocity",)))


@pytest.mark.parametrize("name", ["fc2.weight", "bn_fc1.mean", "optimizer.velocity.fc3.weight"])
@pytest.mark.parametrize("change", [lambda a: a[:-1], lambda a: a[None], lambda a: a.ravel()[:1]])
def test_a_misshapen_array_is_named_with_both_shapes(name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    state = with_slots(SMALL, ("velocity",))
    whole = state[name].shape
    state[name] = change(state[name])
    with pytest.raises(InputError) as caught:
        check(SMALL, state, ("velocity",))
    assert str(caught.value) == f"{name} has shape {state[name].shape}, network {SMALL.name} needs {whole}"


@pytest.mark.parametrize("dtype", ["int32", "uint32", "bool"])
def test_arrays_that_are_not_floats_are_refused(dtype: str) -> None:
    state = initialise(SMALL, 0)
    state["fc2.weight"] = state["fc2.weight"].astype(dtype)
    with pytest.raises(InputError, match=r"^fc2\.weight"):
        check(SMALL, state)


# ------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_file_gives_back_what_was_saved_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    state = {name: array.astype(dtype) for name, array in with_slots(SMALL, ("velocity",)).items()}
    state["fc2.weight"] = np.asfortranarray(state["fc2.weight"])
    state["bn_fc1.mean"] = np.repeat(state["bn_fc1.mean"], 2)[::2]
    path = tmp_path / "new" / "folder" / "weights.safetensors"
    save(path, SMALL, state, {"position": '{"epoch": 3}', "umlaut": "ü\n"})
    network, back, metadata = load(path)
    assert network == SMALL
    assert metadata == {"network": SMALL.to_json(), "position": '{"epoch": 3}', "umlaut": "ü\n"}
    assert set(back) == set(state)
    for name, array in state.items():
        assert back[name].dtype == array.dtype
        assert back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes(), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a small checkpoint."""
    network = Network("tiny", (3,), (Linear("a", 4), BatchNorm("bn"), ReLU("relu"), Linear("b", 2)))
    path = tmp_path_factory.mktemp("whole") / "tiny.safetensors"
    save(path, network, initialise(network, 0))
    return path.read_bytes()


def header_size(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def test_a_truncated_file_is_an_input_error_at_every_length(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "cut.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.safetensors is not a whole safetensors file") as caught:
            load(path)
        assert "\n" not in str(caught.value)


def test_bytes_behind_the_end_are_an_input_error(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "long.safetensors"
    path.write_bytes(whole + b"\0")
    with pytest.raises(InputError, match="long"):
        load(path)


@pytest.mark.parametrize("flip", [0x01, 0x0F, 0x20, 0x80])
def test_a_flipped_byte_in_the_header_is_refused_or_seen_and_never_changes_an_array(
    tmp_path: Path, whole: bytes, flip: int
) -> None:
    path = tmp_path / "whole.safetensors"
    path.write_bytes(whole)
    network, state, metadata = load(path)
    refused = 0
    for position in range(header_size(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= flip
        path.write_bytes(damaged)
        try:
            other, arrays, text = load(path)
            check(other, arrays)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error), (position, str(error))
            continue
        where = (position, whole[max(0, position - 20) : position + 20])
        assert other != network or text != metadata or damaged[position : position + 1].isspace(), where
        for name, array in arrays.items():
            assert array.dtype == state[name].dtype, where
            assert array.tobytes() == state[name].tobytes(), where
    assert refused > header_size(whole) / 2


HEADERS = {
    "no metadata": b"{}",
    "metadata null": b'{"__metadata__": null}',
    "no network": b'{"__metadata__": {"a": "b"}}',
    "a network that is not JSON": b'{"__metadata__": {"network": "vgg"}}',
    "a network that does not fit": b'{"__metadata__": {"network": "{}"}}',
    "metadata a list": b'{"__metadata__": []}',
    "not an object": b"[]",
    "an array outside the file": b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
    "an unknown type": b'{"a": {"dtype": "F99", "shape": [0], "data_offsets": [0, 0]}}',
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_that_does_not_fit_is_an_input_error_of_one_line(tmp_path: Path, what: str) -> None:
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(HEADERS[what]).to_bytes(8, "little") + HEADERS[what])
    with pytest.raises(InputError) as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**12])
def test_a_header_that_claims_to_be_huge_is_an_input_error(tmp_path: Path, length: int) -> None:
    path = tmp_path / "huge.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match="huge"):
        load(path)


class Payload:
    """A pickle of it makes a folder when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_in_place_of_a_checkpoint_is_refused_and_does_not_run(tmp_path: Path, protocol: int) -> None:
    path, marker = tmp_path / "model.safetensors", tmp_path / "ran"
    path.write_bytes(pickle.dumps({"fc.weight": Payload(marker)}, protocol))
    with pytest.raises(InputError, match=r"model\.safetensors is not a whole safetensors file"):
        load(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists(), "the pickle was harmless: the test proves nothing"


def test_a_missing_file_and_a_folder_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^cannot read .*nothing\.safetensors: No such file"):
        load(tmp_path / "nothing.safetensors")
    with pytest.raises(InputError, match=r"^cannot read .*: Is a directory"):
        load(tmp_path)


# ------------------------------------------------------------------------------------------------- atomic writes


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Within it no file of this process can grow beyond `size` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    write_atomically(path, b"old" * 100)
    with files_end_at(100_000), pytest.raises(InputError, match=r"^cannot write .*last\.safetensors: "):
        write_atomically(path, bytes(1_000_000))
    assert path.read_bytes() == b"old" * 100
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.safetensors"]


def test_a_write_that_is_interrupted_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "last.safetensors"
    path.write_bytes(b"old")
    monkeypatch.setattr(weights.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.safetensors"]


def test_a_write_replaces_the_old_file_and_others_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"one", b"", b"three" * 1000):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("place", ["a file/weights.safetensors", "a folder", "/proc/parity/weights.safetensors"])
def test_a_place_that_cannot_be_written_is_an_input_error_that_names_it(tmp_path: Path, place: str) -> None:
    (tmp_path / "a file").write_text("in the way")
    (tmp_path / "a folder").mkdir()
    with pytest.raises(InputError, match=rf"^cannot write .*{place}: ") as caught:
        write_atomically(tmp_path / place, b"data")
    assert "\n" not in str(caught.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a file", "a folder"]


ENDLESS = """
import itertools, sys
from pathlib import Path
from parity.weights import write_atomically
for k in itertools.count():
    write_atomically(Path(sys.argv[1]), bytes([k % 256]) * (2_000_000 + k % 7))
    if k == 1:
        print("ready", flush=True)
"""


def test_a_kill_at_any_moment_of_a_loop_of_writes_leaves_a_whole_file(tmp_path: Path) -> None:
    path, waits = tmp_path / "last.safetensors", random.Random(1)
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)], stdout=subprocess.PIPE)
        with process:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            time.sleep(waits.uniform(0.005, 0.05))
            with suppress(ProcessLookupError):
                process.kill()
        data = path.read_bytes()
        assert process.returncode == -signal.SIGKILL
        assert data == data[:1] * (2_000_000 + len(data) % 2_000_000)
        assert 2_000_000 <= len(data) < 2_000_007
