"""The claims that papers make most: one row tests or trains better, or worse, than another."""

from reslab.spec.study import Claim


def tests_better(left: str, right: str) -> Claim:
    """`left` has the smaller test error."""
    return Claim(f"{left} tests better than {right}", left, "<", right, "test_error")


def tests_worse(left: str, right: str) -> Claim:
    """`left` has the larger test error."""
    return Claim(f"{left} tests worse than {right}", left, ">", right, "test_error")


def trains_better(left: str, right: str) -> Claim:
    """`left` has the smaller training error."""
    return Claim(f"{left} trains better than {right}", left, "<", right, "train_error")


def trains_worse(left: str, right: str) -> Claim:
    """`left` has the larger training error."""
    return Claim(f"{left} trains worse than {right}", left, ">", right, "train_error")
