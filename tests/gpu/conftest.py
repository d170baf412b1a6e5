"""Makes the functions of this folder and the modules of the GPU benchmark importable."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
for folder in (ROOT / "benchmarks", ROOT / "benchmarks" / "gpu", ROOT / "tests" / "gpu"):
    sys.path.insert(0, str(folder))
