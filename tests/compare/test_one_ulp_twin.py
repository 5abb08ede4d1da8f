"""One-ULP twins: which numbers move, by how much; the tolerance of inference covers sums that are added one by one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from parity.compare.noise_model import inference_noise
from parity.compare.one_ulp_twin import move_one_ulp, summed
from parity.compare.tolerances import FACTOR, inference_tolerance
from parity.weights.half_precision import round_to


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_number_moves_to_a_neighbour_and_zeros_and_infinities_stay(dtype: type) -> None:
    given = np.concatenate(
        [np.random.default_rng(0).standard_normal(1000), [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-320]]
    )
    given = given.astype(dtype)
    moved = move_one_ulp({"a": given}, 0)["a"]
    up, down = np.nextafter(given, dtype(np.inf)), np.nextafter(given, dtype(-np.inf))
    same = (given == 0) | ~np.isfinite(given)
    assert np.array_equal(moved[same], given[same], equal_nan=True)
    assert ((moved == up) | (moved == down))[~same].all()
    assert 400 < (moved == up)[:1000].sum() < 600


@pytest.mark.parametrize(("dtype", "bits"), [("bfloat16", 7), ("float16", 10)])
def test_numbers_of_half_dtypes_in_float32_move_by_one_ulp_of_their_dtype(dtype: str, bits: int) -> None:
    given = np.append(np.random.default_rng(0).standard_normal(1000), [0.0, np.inf, np.nan, -1.0, 2.0**-14])
    given = round_to(given, dtype)
    moved = move_one_ulp({"a": given}, 0, dtype)["a"]
    assert moved.dtype == np.float32 and np.array_equal(round_to(moved, dtype), moved, equal_nan=True)
    assert np.array_equal(moved[1000:1003], given[1000:1003], equal_nan=True)
    finite = given[np.isfinite(given) & (given != 0)]
    ulps = (moved[np.isfinite(given) & (given != 0)] - finite) / 2.0 ** (np.floor(np.log2(np.abs(finite))) - bits)
    assert set(ulps) <= {-1, -0.5, 0.5, 1}  # below a power of two the distance is half as large
    assert 400 < (ulps > 0).sum() < 600


def test_weights_of_long_sums_move_farther_and_by_unit() -> None:
    state = {"long.weight": np.ones((6, 40_000), np.float32), "short.weight": np.ones((6, 9), np.float32)}
    state |= {"long.bias": np.ones(40_000, np.float32)}
    moved = {
        name: (array - 1) * 2.0**23 for name, array in summed(state, 0, 0.3).items()
    }  # in ULPs above 1; half as much below
    assert np.abs(moved["short.weight"]).max() == np.abs(moved["long.bias"]).max() == 1
    # sqrt(40,000) / 4 * 0.3 = 15 at random, and as many by unit: 30 up, 15 down, or back.
    assert set(np.unique(moved["long.weight"])) <= {30, 0, -7.5, 7.5, -15}
    means = moved["long.weight"].mean(1)
    assert ((means > 5) | (means < -5)).all() and np.sign(means).min() < 0 < np.sign(means).max()


@pytest.mark.parametrize("signs", ["either sign", "one sign"])
def test_the_tolerance_covers_a_float32_sum_that_is_added_one_by_one(signs: str) -> None:
    random = np.random.default_rng(1)
    weight = random.standard_normal((10, 25_088)).astype(np.float32) / 100
    images = np.maximum(random.standard_normal((1, 25_088)), 0).astype(np.float32)
    weight = np.abs(weight) if signs == "one sign" else weight
    exact = images.astype(np.float64) @ weight.T.astype(np.float64)
    one_after_the_other = np.add.accumulate(images * weight, axis=1, dtype=np.float32)[:, -1]
    error = float(np.linalg.norm(one_after_the_other - exact) / np.linalg.norm(exact))

    def predict(state: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"scores": given["images"].astype(np.float64) @ state["fc.weight"].T.astype(np.float64)}

    state, given = {"fc.weight": weight}, {"images": images}
    bound = inference_tolerance(inference_noise(predict, predict(state, given), state, given)["scores"])
    assert error <= bound <= 30 * error
    # One ULP at random underestimates this rounding.
    twin = predict(move_one_ulp(state, 0), move_one_ulp(given, 0))["scores"]
    assert error > FACTOR["float32"] * float(np.linalg.norm(twin - exact) / np.linalg.norm(exact))
