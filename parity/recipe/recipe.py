"""A recipe as data (optimizer, schedule, augmentation, preprocessing), and `Experiment`, which adds network, data set and seed."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, replace
from itertools import pairwise
from reprlib import repr as short
from typing import Any

from parity.errors import InputError, within
from parity.files.strict_json import from_fields, parse_json
from parity.network.initialisers import float32
from parity.network.network import Network
from parity.network.nodes import Shape
from parity.recipe.optimizer import Optimizer, read_optimizer
from parity.short_repr import ShortRepr


@dataclass(frozen=True, repr=False)
class Schedule(ShortRepr):
    """The learning rate as a fraction of the optimizer's. It depends on the number of samples seen, including the current batch.

    - `constant`: 1.
    - `discexp` (Paddle v2): factor ** floor(samples / every).
    - `one_cycle`: linear from `start` to 1 over the first `warmup` of the run, then linear to `end` at its end.
    - `multi_step`: 1 at first, multiplied by `factor` after each of the shares `drops` of the run (0.5: half of its samples). An update
      belongs to the part of the run in which its batch ends.
    """

    kind: str = "constant"
    factor: float = 0.1
    every: int = 5_000_000
    warmup: float = 0.3
    start: float = 0.0
    end: float = 0.0
    drops: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ("constant", "discexp", "one_cycle", "multi_step"):
            raise InputError(f"schedule must be constant, discexp, one_cycle or multi_step, not {self.kind!r}")
        within("schedule factor", self.factor, 0, math.nextafter(1, 2))  # above 1 the rate would overflow
        within("schedule every", self.every, 1, math.inf)
        for field in ("warmup", "start", "end"):
            within(f"schedule {field}", getattr(self, field), 0, 1)
        ends = (0.0, *self.drops, 1.0)
        if not all(earlier < later for earlier, later in pairwise(ends)):  # also refuses NaN
            raise InputError(f"schedule drops must increase, and be above 0 and below 1, not {short(list(self.drops))}")
        if self.kind == "multi_step" and not self.drops:
            raise InputError(
                "schedule multi_step needs drops: the shares of the run after which the learning rate drops"
            )

    def fraction(self, samples: int, total: int) -> float:
        """Return the fraction after `samples` of the `total` samples of the run."""
        if self.kind == "discexp":
            return self.factor ** (samples // self.every)
        if self.kind == "multi_step":
            return self.factor ** sum(samples > drop * total for drop in self.drops)
        if self.kind == "one_cycle":
            progress = min(samples / total, 1.0)
            if progress < self.warmup:
                return self.start + (1 - self.start) * (progress / self.warmup)
            return self.end + (1 - self.end) * ((1 - progress) / (1 - self.warmup))
        return 1.0


@dataclass(frozen=True, repr=False)
class Preprocessing(ShortRepr):
    """uint8 pixel -> (pixel / 255 - mean) / std, per channel. One value, or equal values, fit any number of channels.

    With a `crop`, only the middle square of `crop` pixels a side is used. `standardise` (TensorFlow's `per_image_standardization`) computes
    (pixel - m) / max(s, 1 / sqrt(n)) instead, with the mean m and deviation s of the n numbers of each image. `permutation` is the seed of
    one fixed order of the pixels, the same for all images.
    """

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    crop: int = 0
    standardise: bool = False
    permutation: int | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.mean) == len(self.std) or not all(0 < deviation < math.inf for deviation in self.std):
            raise InputError(
                f"preprocessing needs as many values of std as of mean, all above 0: {self.std} and {self.mean}"
            )
        if not all(map(math.isfinite, self.mean)):
            raise InputError(f"preprocessing mean must be numbers, not {self.mean}")
        within("preprocessing crop", self.crop, 0, math.inf)
        within("preprocessing permutation", self.permutation or 0, 0, 2**63)


def fitting(preprocessing: Preprocessing | None, channels: int) -> Preprocessing:
    """Return `preprocessing`, or pixel / 255 if it is None. `InputError` unless it fits the number of `channels`."""
    found = preprocessing or Preprocessing((0.0,) * channels, (1.0,) * channels)
    if len(found.mean) != channels:
        raise InputError(f"its preprocessing is for {len(found.mean)} channels, but its network takes {channels}")
    return found


MOST_PIXELS = 4097
"""Above the largest value of all numbers of an augmentation: pixels of crops, padding and scales, brightness and contrast."""


@dataclass(frozen=True, repr=False)
class Augmentation(ShortRepr):
    """Random crop after padding by `crop_padding` pixels on each side, and a horizontal `flip` with probability 1/2.

    The crop has the size of the image, or is a square of `crop` pixels a side. Afterwards, a random number from -`brightness` to
    `brightness` is added to all pixels (0 to 255). Then the distance of each pixel to its channel's mean is multiplied by a random number
    from `contrast_low` to `contrast_high`. Nothing is clipped.

    With `scale_low` and `scale_high` (the scale jitter of arXiv 1409.1556, section 3.1: 256 and 512), an image is rescaled before the crop.
    Its smaller side gets a random number of pixels, uniform in this range. In tests it gets the middle of the range.

    `fill` is the padding: "zeros" (black), or "reflect", the image's own pixels mirrored at its edge. With `alternate`, the flip of each
    image is drawn once, for the first epoch; it is then mirrored in every other epoch (Jordan 2024, arXiv 2404.00498, section 3.6).
    """

    crop_padding: int = 0
    flip: bool = False
    crop: int = 0
    brightness: float = 0.0
    contrast_low: float = 1.0
    contrast_high: float = 1.0
    scale_low: int = 0
    scale_high: int = 0
    fill: str = "zeros"
    alternate: bool = False

    def __post_init__(self) -> None:
        if self.fill not in ("zeros", "reflect"):
            raise InputError(f"augmentation fill must be zeros or reflect, not {self.fill!r}")
        if self.alternate and not self.flip:
            raise InputError("augmentation alternate needs flip")
        for field in ("crop_padding", "crop", "brightness", "contrast_low"):
            within(f"augmentation {field}", getattr(self, field), 0, MOST_PIXELS)
        within("augmentation contrast_high", self.contrast_high, self.contrast_low, MOST_PIXELS)
        if self.rescales and not (
            0 < self.crop <= self.scale_low <= self.scale_high < MOST_PIXELS and not self.crop_padding
        ):
            raise InputError(
                f"augmentation scales {self.scale_low} to {self.scale_high} must increase, be at most 4096, and need a crop of at most "
                f"{self.scale_low} pixels without padding: crop is {self.crop}, crop_padding is {self.crop_padding}"
            )

    @property
    def scales(self) -> tuple[int, int]:
        """The smallest and the largest scale; (0, 0) if images are not rescaled."""
        return self.scale_low, self.scale_high

    @property
    def rescales(self) -> bool:
        """Whether images are rescaled at random."""
        return self.scales != (0, 0)

    @property
    def distorts(self) -> bool:
        """Whether brightness or contrast changes."""
        return bool(self.brightness) or (self.contrast_low, self.contrast_high) != (1, 1)


@dataclass(frozen=True, repr=False)
class Lookahead(ShortRepr):
    """Slow weights that follow the trained weights, and pull them back (Zhang et al. 2019, arXiv 1907.08610).

    After every `every` updates of an epoch (0: never), and after its last update, slow = share * slow + (1 - share) * trained. Then the
    trained weights become equal to the slow weights. Running statistics do the same. The share is `keep` * p ** `power`, where p is the
    fraction of the run that is done (Jordan 2024, arXiv 2404.00498, listing 4).
    """

    every: int = 0
    keep: float = 0.0
    power: float = 0.0

    def __post_init__(self) -> None:
        within("lookahead every", self.every, 0, math.inf)
        within("lookahead keep", self.keep, 0, 1)
        within("lookahead power", self.power, 0, math.inf)

    def due(self, batch: int, batches: int) -> bool:
        """Return whether slow weights are updated after batch `batch`, counted from 1, of the `batches` of an epoch."""
        return self.every > 0 and (batch % self.every == 0 or batch == batches)

    def share(self, samples: int, total: int) -> float:
        """Return the share that slow weights keep after `samples` of the `total` samples of the run."""
        share: float = self.keep * min(samples / total, 1.0) ** self.power
        return share


@dataclass(frozen=True, repr=False)
class Recipe(ShortRepr):
    """How to train: everything besides the network and the data set.

    `divisor` divides the summed cross-entropy of a batch. "batch_size" is the nominal size, also for a smaller last batch, as in Paddle v2.
    "count" is the number of images, which gives the mean.
    """

    name: str
    optimizer: Optimizer
    epochs: int
    batch_size: int = 128
    schedule: Schedule = Schedule()
    preprocessing: Preprocessing = Preprocessing()
    augmentation: Augmentation = Augmentation()
    lookahead: Lookahead = Lookahead()
    divisor: str = "count"
    source: str = ""

    def __post_init__(self) -> None:
        if not (self.name + self.source).isprintable():
            raise InputError(f"recipe {self.name!r}: name and source must be printable text")
        if self.divisor not in ("batch_size", "count"):
            raise InputError(f"recipe {self.name}: divisor must be batch_size or count, not {self.divisor!r}")
        if self.augmentation.crop not in (0, self.preprocessing.crop):
            raise InputError(
                f"recipe {self.name}: training crops {self.augmentation.crop} pixels, tests crop {self.preprocessing.crop}: make them equal"
            )
        for what in ("epochs", "batch_size"):
            if not 1 <= getattr(self, what) < 2**63:
                told = short(getattr(self, what))
                raise InputError(f"{what.replace('_', ' ')} must be at least 1 and below 2**63, not {told}")

    def seen(self, shape: Shape) -> Shape:
        """Return the shape of the network's input for an image of `shape` (channels, height, width).

        `InputError` if the image is too small, or the means are for another number of channels.
        """
        crop, means = self.preprocessing.crop, self.preprocessing.mean
        scales = set(zip(means, self.preprocessing.std, strict=True))
        shape = (shape[0], crop, crop) if self.augmentation.rescales else shape  # of any image size
        if len(scales) > 1 and len(means) != shape[0]:
            raise InputError(f"recipe {self.name} has means of {len(means)} channels, but the images have {shape[0]}")
        if crop > min(shape[1:]):
            raise InputError(
                f"recipe {self.name} crops {crop} by {crop} pixels, but the images have {shape[1]} by {shape[2]}"
            )
        return (shape[0], crop, crop) if crop else shape

    @property
    def bound_to_epochs(self) -> str:
        """Why every update depends on the number of epochs, in words; "" if none does, so that epochs can be added."""
        if self.schedule.kind == "one_cycle":
            end = self.optimizer.rate * self.schedule.end
            return (
                f"its learning rate reaches {end:g} at the end of epoch {self.epochs}, as planned (schedule one_cycle)"
            )
        if self.schedule.kind == "multi_step":
            shares = " and ".join(f"{drop:.4g}" for drop in self.schedule.drops)
            return f"its learning rate drops after {shares} of the {self.epochs} planned epochs (schedule multi_step)"
        if self.lookahead.every and self.lookahead.keep and self.lookahead.power:
            return (
                f"its slow weights move by the share of the {self.epochs} planned epochs that is done (lookahead power)"
            )
        return ""

    def lengthened(self, epochs: int) -> Recipe:
        """Return the recipe with `epochs` epochs. All updates of the shorter recipe stay the same, bit for bit.

        `InputError` for fewer epochs than the recipe has, or if updates depend on the number of epochs (`bound_to_epochs`).
        """
        if epochs < self.epochs:
            raise InputError(f"its recipe plans {self.epochs}, and epochs can only be added")
        if epochs > self.epochs and self.bound_to_epochs:
            raise InputError(self.bound_to_epochs)
        return replace(self, epochs=epochs)

    def rate(self, samples: int, total: int) -> float:
        """Return the learning rate, rounded to float32, of the update after which `samples` of `total` samples are seen."""
        return float32(self.optimizer.rate * self.schedule.fraction(samples, total))

    def loss_divisor(self, count: int) -> int:
        """Return the divisor of the summed cross-entropy of a batch of `count` images."""
        return self.batch_size if self.divisor == "batch_size" else count


@dataclass(frozen=True, repr=False)
class Experiment(ShortRepr):
    """All that determines a training run: network, recipe, data set, seed, and numbers of images (None: all).

    With `hold_out`, so many training images are tested instead of the test images, and train nothing; limits count what is left.
    `classes` are given if the data set is not in `parity.data.CLASSES`.
    """

    network: Network
    recipe: Recipe
    data: str
    seed: int = 0
    train_limit: int | None = None
    test_limit: int | None = None
    classes: tuple[str, ...] = ()
    hold_out: int = 0

    def __post_init__(self) -> None:
        within("hold_out", self.hold_out, 0, 2**63)
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed must be from 0 to 2**63 - 1, not {self.seed}")

    def batches(self, images: int) -> int:
        """Return the number of batches of an epoch of `images` training images. The last one may be smaller."""
        return math.ceil(images / self.recipe.batch_size)

    def lengthened(self, epochs: int) -> Experiment:
        """Return the experiment with `epochs` epochs. `InputError` as in `Recipe.lengthened`."""
        return replace(self, recipe=self.recipe.lengthened(epochs))

    def to_json(self) -> str:
        """Return the experiment as one line of JSON."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return json.dumps(
            fields | {"network": json.loads(self.network.to_json()), "recipe": dataclasses.asdict(self.recipe)}
        )

    @staticmethod
    def from_json(text: str) -> Experiment:
        """Return the experiment that `to_json` wrote. `InputError` names what does not fit."""
        fields = parse_json(text, "experiment")
        network = Network.from_json(json.dumps(fields.get("network")))
        return from_fields(
            Experiment, fields | {"network": network, "recipe": read_recipe(fields.get("recipe"))}, "experiment"
        )


_PARTS: dict[str, type[Any]] = {
    "schedule": Schedule,
    "preprocessing": Preprocessing,
    "augmentation": Augmentation,
    "lookahead": Lookahead,
}


def read_recipe(fields: Any) -> Recipe:
    """Return the recipe of a parsed JSON object, as `dataclasses.asdict` made it. `InputError` names what does not fit."""
    if not isinstance(fields, dict):
        raise InputError("recipe JSON: expected an object")
    parts = {key: from_fields(cls, fields[key], f"recipe {key}") for key, cls in _PARTS.items() if key in fields}
    if "optimizer" in fields:
        parts["optimizer"] = read_optimizer(fields["optimizer"])
    return from_fields(Recipe, fields | parts, "recipe")


def with_jitter(recipe: Recipe, scales: tuple[int, int], size: int) -> Recipe:
    """Return `recipe` with a scale jitter of `scales` (low, high), and crops of `size` by `size`."""
    how = replace(recipe.augmentation, crop=size, crop_padding=0, scale_low=scales[0], scale_high=scales[1])
    return replace(recipe, augmentation=how, preprocessing=replace(recipe.preprocessing, crop=size))


def changed(recipe: Recipe, **fields: Any) -> Recipe:
    """Return `recipe` with those `fields` replaced that are not None."""
    return replace(recipe, **{key: value for key, value in fields.items() if value is not None})
