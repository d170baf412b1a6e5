"""Two trained networks that come with the package: 20 layers for 8x8 digits, with and without shortcuts.

The folders `residual` and `plain` are runs; `make examples` trains them again.
"""

from pathlib import Path

EXAMPLE_NAMES = ("residual", "plain")


def example_runs() -> list[Path]:
    """Return the folders of the runs, the residual network first."""
    return [Path(__file__).parent / name for name in EXAMPLE_NAMES]
