"""Makes tensorflow.npz in this folder: results of TensorFlow for everything in the articles that relies on TensorFlow.

It needs TensorFlow 2 and no code of this project: `pip install tensorflow-cpu && python tests/golden/make_tensorflow.py`. The tests that
read the file (tests/backends/test_tensorflow.py) do not need TensorFlow. Layouts are TensorFlow's: images [N,H,W,C], kernels [H,W,in,out].
"""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import tensorflow as tf

SIZES = ((5, 7), (6, 9), (13, 4), (3, 3))
WINDOWS = ((3, 1), (3, 2), (2, 2), (4, 1), (5, 3), (6, 5), (1, 2))
"""(window, stride). A size of 13 with a window of 6 and a stride of 5 is the example of TensorFlow's documentation."""

LRNS = {"krizhevsky": (2, 2.0, 1e-4, 0.75), "cifar10": (4, 1.0, 0.001 / 9.0, 0.75)}
"""(depth_radius, bias, alpha, beta) of the paper (n = 5) and of TensorFlow's CIFAR-10 tutorial (n = 9)."""

GROUPS = ((4, 2), (5, 2), (6, 3), (8, 3), (8, 3))
HIDDEN, CLASSES = 16, 10
DISTORTIONS = ((-63.0, 0.2), (0.0, 1.0), (31.5, 1.8), (12.0, 0.7))
"""(brightness, contrast)."""

random = np.random.default_rng(2017)


def rounded(array: np.ndarray) -> np.ndarray:
    """Random float64 numbers that float32 holds exactly, so that the file can store them as float32."""
    return array.astype(np.float32)


def double(array: np.ndarray) -> tf.Tensor:
    return tf.constant(array.astype(np.float64))


def windows() -> dict[str, np.ndarray]:
    """Convolutions and pools with SAME padding, in float64."""
    found: dict[str, np.ndarray] = {}
    for height, width in SIZES:
        image = rounded(random.uniform(-1, 1, (1, height, width, 2)))
        found[f"image/{height}x{width}"] = image
        for window, stride in WINDOWS:
            if (kernel := f"kernel/{window}") not in found:
                found[kernel] = rounded(random.uniform(-1, 1, (window, window, 2, 3)))
            case = f"{height}x{width}/{window}/{stride}"
            found[f"conv/{case}"] = tf.nn.conv2d(double(image), double(found[kernel]), stride, "SAME").numpy()
            found[f"max/{case}"] = tf.nn.max_pool2d(double(image), window, stride, "SAME").numpy()
            found[f"avg/{case}"] = tf.nn.avg_pool2d(double(image), window, stride, "SAME").numpy()
    return found


def normalisation() -> dict[str, np.ndarray]:
    """Local response normalisation and its gradient, which TensorFlow computes only in float32."""
    image = rounded(random.uniform(-60, 60, (2, 2, 3, 11)))
    slope = rounded(random.uniform(-1, 1, image.shape))
    found = {"lrn/image": image, "lrn/slope": slope}
    for name, arguments in LRNS.items():
        x = tf.constant(image)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.nn.local_response_normalization(x, *arguments)
        found |= {f"lrn/{name}": y.numpy(), f"lrn/{name}/backward": tape.gradient(y, x, slope).numpy()}
    return found


def network() -> dict[str, np.ndarray]:
    """A narrow cousin of the first article's TensorFlow VGG16, its clipped scores, and the gradients of their l2_loss, in float64."""
    weights: dict[str, np.ndarray] = {}
    channels, convolutions = 3, []
    for group, (filters, count) in enumerate(GROUPS, start=1):
        for i in range(1, count + 1):
            convolutions.append((group, f"conv{group}_{i}", (3, 3, channels, filters)))
            channels = filters
    linear = (("fc6", (channels, HIDDEN)), ("fc7", (HIDDEN, HIDDEN)), ("fc8", (HIDDEN, CLASSES)))
    for name, shape in [*((name, shape) for _, name, shape in convolutions), *linear]:
        weights[f"{name}.weight"] = rounded(random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1])))
        weights[f"{name}.bias"] = rounded(random.uniform(-0.1, 0.1, shape[-1:]))
    variables = {name: tf.Variable(double(array)) for name, array in weights.items()}
    images = rounded(random.uniform(-1, 1, (3, 24, 24, 3)))
    with tf.GradientTape() as tape:
        x, before = double(images), 1
        for group, name, _ in convolutions:
            if group != before:
                x, before = tf.nn.max_pool2d(x, 2, 2, "SAME"), group
            x = tf.nn.relu(tf.nn.conv2d(x, variables[f"{name}.weight"], 1, "SAME") + variables[f"{name}.bias"])
        x = tf.nn.max_pool2d(x, 2, 2, "SAME")
        x = tf.reshape(x, [len(images), -1])
        for name, _ in linear:
            x = tf.nn.relu(tf.matmul(x, variables[f"{name}.weight"]) + variables[f"{name}.bias"])
        loss = tf.nn.l2_loss(x)
    gradients = tape.gradient(loss, variables)
    found = {f"vgg/{name}": array for name, array in weights.items()}
    found |= {f"vgg/gradient/{name}": gradient.numpy() for name, gradient in gradients.items()}
    return found | {"vgg/images": images, "vgg/scores": x.numpy(), "vgg/loss": loss.numpy()}


def pictures() -> dict[str, np.ndarray]:
    """The results of distorted_inputs for a picture with a chosen crop and chosen random numbers, and for a picture of one colour."""
    images = random.integers(0, 256, (len(DISTORTIONS) + 1, 6, 5, 3)).astype(np.uint8)
    images[-1] = 77
    numbers = np.array([*DISTORTIONS, (5.0, 1.5)])
    distorted, standardised = [], []
    for image, (brightness, contrast) in zip(images, numbers, strict=True):
        x = tf.image.adjust_brightness(tf.cast(image, tf.float32), float(brightness))
        distorted.append(tf.image.adjust_contrast(x, float(contrast)).numpy())
        standardised.append(tf.image.per_image_standardization(tf.cast(image, tf.float32)).numpy())
    made = {
        "images": images,
        "numbers": numbers,
        "distorted": np.stack(distorted),
        "standardised": np.stack(standardised),
    }
    return {f"pictures/{name}": array for name, array in made.items()}


def initialisers() -> dict[str, np.ndarray]:
    """The largest magnitude and the deviation of at least 300,000 draws: Xavier's uniform in the articles' shapes, and slim's."""
    found = {}
    for shape in ((3, 3, 128, 256), (512, 2048)):
        draw = tf.keras.initializers.GlorotUniform(seed=1)(shape).numpy().astype(np.float64)
        found[f"xavier/{'x'.join(map(str, shape))}"] = np.array([np.abs(draw).max(), draw.std()])
    draw = tf.keras.initializers.TruncatedNormal(0.0, 0.01, seed=1)((1000, 1000)).numpy().astype(np.float64)
    return found | {"truncated": np.array([np.abs(draw).max(), draw.std()])}


def main() -> None:
    """Write the file."""
    found = windows() | normalisation() | network() | pictures() | initialisers()
    made_by = np.array(f"TensorFlow {tf.__version__}, numpy {np.__version__}, Python {platform.python_version()}")
    path = Path(__file__).with_name("tensorflow.npz")
    np.savez_compressed(path, made_by=made_by, **found)
    print(f"{path}: {len(found)} arrays, {path.stat().st_size:,} bytes; {made_by}")


if __name__ == "__main__":
    main()
