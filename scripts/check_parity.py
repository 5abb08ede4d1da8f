#!/usr/bin/env python
"""Check that the Paddle and the PyTorch implementation are one network; see --help."""

from parity.cli.entry import script

if __name__ == "__main__":
    script("check_parity")
