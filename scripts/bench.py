#!/usr/bin/env python
"""Time training and inference in both frameworks; see --help."""

import sys

from parity.commands.bench import main

if __name__ == "__main__":
    sys.exit(main())
