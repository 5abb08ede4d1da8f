#!/usr/bin/env python
"""Convert weights between safetensors, Paddle, PyTorch and PaddlePaddle v2; see --help."""

from parity.cli.entry import run

if __name__ == "__main__":
    run("convert")
