#!/usr/bin/env python
"""Convert weights between safetensors, Paddle, PyTorch and PaddlePaddle v2; see --help."""

from parity.entry import run

if __name__ == "__main__":
    run("convert_weights")
