"""`python -m videodit NAME ...`, which launchers of several processes take: `torchrun -m videodit train ...`."""

import sys

from videodit.commands import main

if __name__ == "__main__":
    sys.exit(main())
