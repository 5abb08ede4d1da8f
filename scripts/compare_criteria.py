#!/usr/bin/env python
"""Count how many planted faults this suite and the criteria of other tools find; see --help."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # import from this clone, not from an installed version
    from parity.cli.entry import script

    script("compare_criteria")
