"""How many partial sums a weight gradient has."""

MOST_PARTS = 4


def parts_of(batch: int, length: int) -> int:
    """At most 4, each of at least 64 rows: a function of the shape alone."""
    return max(1, min(MOST_PARTS, batch * length // 64))
