"""A recording on disk: `rank0/recording.json`, and one safetensors file for each step; one folder for each rank.

Names in the file of a step: `start/NAME`, `gradient/NAME` and `update/NAME` are a weight before the step, its gradient before clipping,
and the weight after the step; `state/SLOT/NAME` is what the optimizer kept before the first step and after a gap; `layer/N` an input or
output of a layer, `backward/layer/N` its gradient; `input/BATCH/PLACE` and `output/BATCH/PLACE` what the model got and returned, for each
forward pass of the step; `mask/N` which numbers a dropout kept, one bit each; `kept/NAME` what the program added. An output that no
recorded layer returns has its gradient in `backward/output/BATCH/PLACE`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
from safetensors import SafetensorError, safe_open

from parity.arrays import Array
from parity.backend.registry import FRAMEWORKS
from parity.errors import InputError
from parity.files.strict_json import check_type, from_fields, parse_json, read_text
from parity.modules.description import arrays_of
from parity.recipe.optimizer_description import OptimizerDescription
from parity.short_repr import ShortRepr

FORMAT = "vgg-parity recording 1"
"""The first field of recording.json: the name and the version of the format."""

DESCRIPTION = "recording.json"

STEP = re.compile(r"step_(\d{6,})\.safetensors")

PREFIXES = ("start", "gradient", "update")
"""The tensors of a step that are those of weights."""

NORMS = ("sum of absolute values", "L2 norm", "L4 norm", "largest absolute value")
"""What `norms` returns."""

UNREADABLE = (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError)
"""What safetensors raises for a damaged file, or for a dtype that numpy does not have."""


class ArrayRow(TypedDict):
    """A parameter or buffer, see `parity.backend.observed_model.ObservedModel.describe`."""

    shape: Sequence[int]
    dtype: str
    trained: bool
    same_as: str | None


class ModuleRow(TypedDict):
    """A module, see `parity.backend.observed_model.ObservedModel.describe`."""

    path: str
    classes: Sequence[str]
    attributes: Mapping[str, object]
    arrays: Mapping[str, ArrayRow]
    inside: bool


class CallRow(TypedDict):
    """The call of a layer: its path, and the names of its arrays."""

    path: str
    inputs: Sequence[str]
    outputs: Sequence[str]


class ClipRow(TypedDict):
    """The clipping of an optimizer, see `parity.recipe.optimizer_description.Clip`."""

    kind: str
    limit: float | None
    groups: bool


class OptimizerRow(TypedDict):
    """An optimizer, see `parity.recipe.optimizer_description.OptimizerDescription`."""

    kind: str
    class_name: str
    parameters: Mapping[str, Mapping[str, bool | float | str | None]]
    clip: ClipRow | None


class DrawRow(TypedDict):
    """A dropout: the layer, how many numbers it drew, its probability, the name of its mask, and the factor of what it kept."""

    path: str
    size: int
    kind: str
    p: float
    mask: str
    factor: float


@dataclass(frozen=True, repr=False)
class RecordingDescription(ShortRepr):
    """What is the same in all steps of one rank.

    Attributes:
        format: `FORMAT`.
        id: Random letters that are in all files of one rank of one recording.
        framework: "torch" or "paddle".
        rank: The rank of the process.
        ranks: How many processes took part.
        model: The class of the model.
        dtype: The dtype of most numbers of the model.
        device: "cpu" or "gpu".
        default_dtype: The framework's default dtype.
        versions: Versions of the framework, CUDA, Python and numpy.
        settings: Settings of the process that change numbers, such as TF32.
        seed: The seed of the framework's random numbers, as text.
        threads: CPU threads.
        layers: The paths of the layers whose calls are recorded.
        every: One in so many steps is recorded.
        weights: Whether weights, gradients and updates are recorded; else only norms.
        twin: 0, or the seed with which the weights were moved by one ULP.
        modules: The modules of the model.
    """

    format: str
    id: str
    framework: str
    rank: int
    ranks: int
    model: str
    dtype: str
    device: str
    default_dtype: str
    versions: Mapping[str, str]
    settings: Mapping[str, bool | str]
    seed: str
    threads: int
    layers: Sequence[str]
    every: int
    weights: bool
    twin: int
    modules: Sequence[Mapping[str, Any]]

    def to_json(self) -> str:
        """Return the text of the file."""
        return json.dumps(vars(self), indent=1)


@dataclass(frozen=True, repr=False)
class StepDescription(ShortRepr):
    """What the metadata of a step's file say.

    Attributes:
        id: That of the recording.
        number: The number of the step, from 1, since the recording began.
        batches: How many forward passes the step has.
        losses: The value from which each backward pass started.
        calls: Calls of layers in the order in which they ended.
        draws: Dropouts in order.
        dtypes: The floating-point dtypes of recorded tensors.
        optimizer: The optimizer as data, see `OptimizerDescription.to_json`.
        clips: The clipping outside of the optimizer: kind and limit.
        clipped: The parameters of each of `clips`; empty if they were not recorded.
        slots: What the optimizer kept for a parameter before the step, in the first step and after a gap.
    """

    id: str
    number: int
    batches: int
    losses: Sequence[float]
    calls: Sequence[CallRow]
    draws: Sequence[DrawRow]
    dtypes: Sequence[str]
    optimizer: Mapping[str, object]
    clips: Sequence[Sequence[str | float]] = field(default_factory=list)
    clipped: Sequence[Sequence[str]] = field(default_factory=list)
    slots: Sequence[str] = field(default_factory=list)

    @cached_property
    def described_optimizer(self) -> OptimizerDescription:
        """The optimizer."""
        return OptimizerDescription.from_json(self.optimizer)


class StepRecord(Mapping[str, Array]):
    """The tensors of a step by name; each is read from the file when it is asked for. `InputError` if the file is damaged."""

    def __init__(self, path: Path, recording: RecordingDescription, number: int) -> None:
        self.path = path
        try:
            self._file = cast(Any, safe_open(path, framework="numpy"))
            self._names, metadata = dict.fromkeys(self._file.keys()), self._file.metadata() or {}
        except UNREADABLE as error:
            raise self._damaged(str(error)) from None
        fields = parse_json(metadata.get("step", ""), f"{path}: the metadata")
        self.description = from_fields(StepDescription, fields, str(path))
        if self.description.id != recording.id:
            raise InputError(f"{path} belongs to another recording: do not mix the files of two recordings")
        if self.description.number != number:
            raise InputError(f"{path} holds step {self.description.number}: do not rename the files of a recording")
        self._check()
        self._check_weights(recording)

    def _damaged(self, why: str) -> InputError:
        return InputError(f"{self.path} is damaged ({why}): remove it, or record again")

    def _check(self) -> None:
        """`InputError` if the description names a tensor that is not there, or the optimizer cannot be understood."""
        step = self.description
        named = [key for call in step.calls for key in (*call["inputs"], *call["outputs"])]
        if missing := [key for key in [*named, *(draw["mask"] for draw in step.draws)] if key not in self._names]:
            raise InputError(f"{self.path} is damaged: it has no tensor {missing[0]!r}; remove it, or record again")
        if not 0 <= step.batches <= len(self._names):
            raise InputError(f"{self.path} is damaged: it cannot have {step.batches} forward passes; record again")
        try:
            check_type(step.optimizer, OptimizerRow, "optimizer")
            OptimizerDescription.from_json(step.optimizer)
        except (InputError, TypeError):
            raise InputError(f"{self.path} is damaged: it describes no optimizer; remove it, or record again") from None
        try:
            for kind, limit in step.clips:
                check_type(kind, str, "clips")
                check_type(limit, float, "clips")
        except ValueError:
            raise InputError(f"{self.path} is damaged: it describes no clipping; remove it, or record again") from None

    def _check_weights(self, recording: RecordingDescription) -> None:
        """`InputError` if a tensor has another shape than the weight of its name."""
        shapes = {
            name: list(array["shape"]) if recording.weights else [len(NORMS)]
            for name, array in arrays_of(recording.modules).items()
        }
        for prefix in PREFIXES:
            for name in self.named(prefix):
                found = self._shape(f"{prefix}/{name}")
                if found != shapes.get(name, found):
                    raise InputError(
                        f"{self.path} is damaged: {prefix}/{name} has the shape {found}, expected {shapes[name]}; remove it, or record "
                        "again"
                    )

    def _shape(self, name: str) -> list[int]:
        try:
            return list(self._file.get_slice(name).get_shape())
        except UNREADABLE as error:
            raise self._damaged(str(error)) from None

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        try:
            array: Array = self._file.get_tensor(name)
        except UNREADABLE as error:
            raise self._damaged(str(error)) from None
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def named(self, prefix: str) -> list[str]:
        """Return the names below `prefix`, without it."""
        return [name.removeprefix(f"{prefix}/") for name in self._names if name.startswith(f"{prefix}/")]

    def mask(self, draw: DrawRow) -> Array:
        """Return the factors of a dropout, as float64 of the shape [size]."""
        packed = self[draw["mask"]]
        bits = np.unpackbits(packed) if packed.dtype == np.uint8 else np.zeros(0, np.uint8)
        if bits.size < draw["size"] or draw["size"] < 0:
            raise InputError(f"{self.path} is damaged: the mask {draw['mask']!r} is too short; record again")
        return np.asarray(bits[: draw["size"]] * np.float64(draw["factor"]))


@dataclass(frozen=True, repr=False)
class RankRecording(ShortRepr):
    """The recording of one rank: its description and its whole steps, in order."""

    path: Path
    description: RecordingDescription
    numbers: Sequence[int]
    _open: dict[int, StepRecord] = field(default_factory=dict, init=False, compare=False)

    def step(self, number: int) -> StepRecord:
        """Return one of the steps `numbers`. Its file, and that of the step before, stay open until later steps are read."""
        if number not in self._open:
            for old in [one for one in self._open if one < number - 1]:
                del self._open[old]
            self._open[number] = StepRecord(self.path / step_name(number), self.description, number)
        return self._open[number]


def step_name(number: int) -> str:
    """Return the name of the file of a step."""
    return f"step_{number:06d}.safetensors"


def read_recording(path: Path) -> list[RankRecording]:
    """Return the ranks of a recording. `InputError` if it is not one, holds no whole step, or is a mixture of several."""
    if not path.is_dir():
        raise InputError(f"{path} is no folder: give the folder that parity.record wrote")
    folders = {int(found[1]): one for one in path.iterdir() if (found := re.fullmatch(r"rank(\d{1,6})", one.name))}
    if 0 not in folders:
        raise InputError(f"{path} is no recording: it has no folder rank0; give the folder that parity.record wrote")
    ranks = [_read_rank(folders[rank], rank) for rank in sorted(folders)]
    first = ranks[0].description
    for one in ranks:
        if one.description.framework != first.framework or one.description.modules != first.modules:
            raise InputError(f"{one.path} and {ranks[0].path} hold different models: do not mix two recordings")
        if one.description.ranks < len(ranks):
            raise InputError(
                f"{path} holds {len(ranks)} ranks, and {one.path} is one of {one.description.ranks}: remove the folders of an earlier "
                "recording"
            )
        if one.description.ranks > len(ranks):
            raise InputError(
                f"{path} holds {len(ranks)} of {one.description.ranks} ranks: copy all folders rank0, rank1, ... into it"
            )
    return ranks


def _read_rank(path: Path, rank: int) -> RankRecording:
    place = path / DESCRIPTION
    fields = parse_json(read_text(place, "the description of a recording"), str(place))
    if fields.get("format") != FORMAT:
        raise InputError(f"{place}: the format is {str(fields.get('format'))[:40]!r}, expected {FORMAT!r}")
    description = from_fields(RecordingDescription, fields, str(place))
    check_type(list(description.modules), Sequence[ModuleRow], f"{place}: modules")
    if unknown := [module["path"] for module in description.modules if not module["classes"]]:
        raise InputError(f"{place}: the module {unknown[0][:40]!r} has no class: record again")
    if description.framework not in FRAMEWORKS:
        raise InputError(f"{place}: unknown framework {description.framework[:40]!r}")
    if description.rank != rank:
        raise InputError(f"{place} is that of rank {description.rank}: do not rename the folders of a recording")
    numbers = sorted(int(found[1]) for one in path.iterdir() if (found := STEP.fullmatch(one.name)))
    if not numbers:
        raise InputError(f"{path} holds no whole step: the program ended, or was killed, before its first one")
    return RankRecording(path, description, numbers)


def norms(array: Array) -> Array:
    """Return the sum of absolute values, the L2 and L4 norms and the largest absolute value: the same for any order of the numbers."""
    size = np.abs(array.astype(np.float64)).ravel()
    if not size.size:
        return np.zeros(len(NORMS))
    largest = float(size.max())
    scaled = size / (largest or 1.0)
    fourth = float((scaled**4).sum()) ** 0.25 * largest
    return np.array([size.sum(), float(np.sqrt((scaled**2).sum())) * largest, fourth, largest])
