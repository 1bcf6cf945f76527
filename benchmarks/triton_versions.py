"""What another version of Triton makes of the kernels, kept beside triton_resources.csv.

    python -m benchmarks.triton_resources --shapes tiny,replica,paper > ROWS.csv    under it
    python -m benchmarks.triton_versions ROWS.csv [ROWS.csv ..]                     anywhere

writes results/triton-<version>-resources.csv. Its column `of` is the digest that
triton_resources.csv has of the same kernel, so that a kernel that changes since is seen to be
another (tests/test_triton_aot.py), also where that version is not installed.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

TABLE = Path(__file__).with_name("triton_resources.csv")
RESULTS = Path(__file__).parent / "results"
KEY = ("shape", "precision", "architecture", "kernel", "form")

Row = dict[str, str]


def rows_of(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def key(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in KEY)


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    rows = [row for path in given for row in rows_of(Path(path))]
    versions = {row["triton"] for row in rows}
    if len(versions) != 1:
        print(f"triton_versions: {len(versions)} versions of Triton, not one", file=sys.stderr)
        return 2
    digests = {key(row): row["ir"] for row in rows_of(TABLE)}
    unknown = [key(row) for row in rows if key(row) not in digests]
    if unknown:
        print(f"triton_versions: not in {TABLE.name}: {unknown[0]}", file=sys.stderr)
        return 1
    made = [row | {"of": digests[key(row)]} for row in sorted(rows, key=key)]
    target = RESULTS / f"triton-{versions.pop()}-resources.csv"
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(made[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(made)
    print(f"{target}: {len(made)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
