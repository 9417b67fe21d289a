"""How sure a score is: 95% intervals, from the number of examples it was measured on."""

import math

_Z = 1.959964  # of the standard normal distribution, 95% lie within -z and z


def wilson(share: float, num_examples: int) -> tuple[float, float]:
    """The interval of a share of independent examples, such as an accuracy.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical
    inference".
    """
    n, z2 = num_examples, _Z * _Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    spread = math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    half = _Z / (1 + z2 / n) * spread
    return max(0.0, middle - half), min(1.0, middle + half)


def fisher(correlation: float, num_examples: int) -> tuple[float, float]:
    """The interval of a Pearson correlation of independent pairs, nearly normal ones.

    Fewer than four pairs say nothing: the interval is [-1, 1].

    Source: Fisher 1921, "On the probable error of a coefficient of correlation".
    """
    if num_examples < 4:
        return -1.0, 1.0
    if abs(correlation) >= 1.0:
        return correlation, correlation
    middle, half = math.atanh(correlation), _Z / math.sqrt(num_examples - 3)
    return math.tanh(middle - half), math.tanh(middle + half)
