#!/usr/bin/env python
"""Convert weights between safetensors, Paddle, PyTorch and PaddlePaddle v2; see --help."""

from parity.cli.entry import script

if __name__ == "__main__":
    script("convert_weights")
