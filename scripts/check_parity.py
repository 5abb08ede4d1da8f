#!/usr/bin/env python
"""Check that the Paddle and the PyTorch implementation are one network; see --help."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # this checkout's packages, whatever is installed
    from parity.cli.entry import script

    script("check_parity")
