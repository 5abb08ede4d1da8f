#!/usr/bin/env python
"""Say what networks cost, layer by layer; see --help."""

import sys

from parity.commands.describe import main

if __name__ == "__main__":
    sys.exit(main())
