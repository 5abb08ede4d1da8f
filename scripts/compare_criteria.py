#!/usr/bin/env python
"""Count how many planted faults this suite and other people's criteria catch; see --help."""

import sys

from parity.commands.compare_criteria import main

if __name__ == "__main__":
    sys.exit(main())
