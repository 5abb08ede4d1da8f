#!/usr/bin/env python
"""Compare runs by accuracy and minutes, as a table and a picture; see --help."""

import sys

from parity.commands.compare_runs import main

if __name__ == "__main__":
    sys.exit(main())
