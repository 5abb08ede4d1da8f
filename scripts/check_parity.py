#!/usr/bin/env python
"""Check that the Paddle and the PyTorch implementation are one network; see --help."""

import sys

from parity.commands.check_parity import main

if __name__ == "__main__":
    sys.exit(main())
