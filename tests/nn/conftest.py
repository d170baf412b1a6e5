"""Lets the tests of this folder import what they share: `agreement` (how two networks are held against each other) and
`papers` (formulas transcribed from the papers)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
