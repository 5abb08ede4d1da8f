#!/usr/bin/env python
"""Time training and inference in both frameworks; see --help."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # import from this clone, not from an installed version
    from parity.cli.entry import script

    script("bench")
