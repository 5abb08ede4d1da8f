#!/usr/bin/env python
"""Convert weights between safetensors, Paddle, PyTorch and PaddlePaddle v2; see --help."""

import sys

from parity.commands.convert_weights import main

if __name__ == "__main__":
    sys.exit(main())
