"""Whether one row is better than another, or only luckier with these users.

Letters: N users, F flips, V distinct sizes of a difference.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: Numbers that are drawn at a time.
BATCH: Final = 2**22

#: Sums of the same numbers in another order differ by less than this share of the sum of their sizes.
ROUNDING: Final = 1e-9


def permutation_test(differences: Floats, *, flips: int, generator: np.random.Generator) -> float:
    """Return the two-sided p-value of the mean of paired differences (N,) by random flips of their signs.

    If neither row were better, each user's difference were as likely to have the other sign (Fisher 1935). The p-value
    is the share of F flips, and of the data as found, whose mean is at least as far from 0: (b + 1) / (F + 1), which
    is never 0 (Phipson and Smyth 2010, equation 2).

    Signs matter only through how many of the differences of each size are positive, and that is binomial. So counts are
    drawn instead of users: the same distribution, in F x V numbers whatever N is.

    Differences of 0 alone give 1, for every flip is as far from 0 as they are.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)  # (V,)
    threshold = abs(float(differences.sum())) - ROUNDING * float(sizes @ counts)
    rows = max(1, BATCH // max(1, len(sizes)))
    as_far = 0
    for start in range(0, flips, rows):
        shape = (min(rows, flips - start), len(sizes))
        positive = generator.binomial(counts, 0.5, size=shape)  # (rows, V)
        as_far += int((np.abs((2 * positive - counts) @ sizes) >= threshold).sum())
    return (as_far + 1) / (flips + 1)


def holm(p_values: Sequence[float], *, tests: int | None = None) -> list[float]:
    """Return p-values as they are after several tests, so that a false alarm among all is as rare as it is in one.

    The smallest of m is multiplied by m, the next by m - 1 and so on; none is below one before it, nor above 1
    (Holm 1979). [0.01, 0.04, 0.03] gives [0.03, 0.06, 0.06].

    Where tests are more than p_values, m is their number: those whose p-values are not known count as larger, which
    makes the others at least as large as they would be.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for before, place in enumerate(order):
        tests_left = (len(p_values) if tests is None else tests) - before
        highest = max(highest, min(1.0, tests_left * p_values[place]))
        adjusted[place] = highest
    return adjusted
