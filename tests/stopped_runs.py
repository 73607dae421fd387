"""Run by tests/test_training.py, alone and by `torchrun`: a run without an end, which a signal stops.

Argument: the folder of the run. Beside it, each process leaves its number in a file.
"""

import os
import sys
from pathlib import Path

import killed_runs

ENDLESS = {"save_every": 10**6, "log_every": 2}

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    rank = os.environ.get("RANK", "0")
    folder.with_name(f"process{rank}").write_text(str(os.getpid()))
    killed_runs.run(folder, 10**9, **ENDLESS)
