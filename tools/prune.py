"""`videodit prune`, with the same arguments."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from videodit.commands import run

if __name__ == "__main__":
    sys.exit(run("prune"))
