"""Tables from anybody: rows, columns and words that the run cannot have written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hostile
import polars as pl
import pytest

import compfast
from compfast.runs import checkpoints
from compfast.storage import durable

pytestmark = pytest.mark.usefixtures("native_extension")


def _write(path: Path, frame: pl.DataFrame) -> None:
    frame.write_parquet(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.head(3), "has 3 rows; the run has 4 members"),
        (lambda t: pl.concat([t] * 3), "has 12 rows; the run has at most 4"),
        (lambda t: t.with_columns(gamma=pl.lit(0.1)), "column gamma is not what"),
        (lambda t: t.with_columns(member=pl.col("member") + 1), "column member is not what"),
        (lambda t: t.drop("seed"), "column seed is not what"),
        (lambda t: t.with_columns(verdict=pl.lit("<script>alert(1)")), "no member can get"),
        (lambda t: t.with_columns(verdict=pl.lit('=HYPERLINK("x")')), "no member can get"),
        (lambda t: t.with_columns(verdict=pl.lit(1.5)), "no column of verdicts"),
        (lambda t: t.with_columns(seen=pl.lit([[1.0]])), "which no run writes"),
    ],
)
def test_members_that_are_not_the_run_s(copied: Path, change: Any, message: str) -> None:
    _write(copied / "members.parquet", change(compfast.load(copied).members))
    with pytest.raises(compfast.StorageError, match=message):
        _ = compfast.load(copied).members


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.with_columns(member=pl.col("member") + 9), "members that are not in the run"),
        (lambda t: t.drop("step"), "column step does not hold whole numbers"),
        (lambda t: t.with_columns(loss=pl.lit("=1+1")), "lacks a column of numbers"),
        (lambda t: t.with_columns(verdict=pl.lit("<b>")), "no member can get"),
        (lambda t: pl.concat([t] * 50), "the run has at most"),
    ],
)
def test_metrics_that_are_not_the_run_s(copied: Path, change: Any, message: str) -> None:
    """With a manifest that agrees with them."""
    part = next((copied / "metrics").iterdir())
    _write(part, change(pl.read_parquet(part)))
    digest = durable.digest_of(part)
    for folder in checkpoints.numbered(copied / "checkpoints"):
        manifest = durable.read_json(folder / "manifest.json")
        manifest["metrics"][part.name] = {"sha256": digest.sha256, "bytes": digest.bytes}
        hostile.write_manifest(folder, manifest)
    with pytest.raises(compfast.StorageError, match=message):
        _ = compfast.load(copied).metrics


def test_a_table_of_very_many_rows_is_not_unpacked(copied: Path) -> None:
    many = pl.select(member=pl.repeat(0, 3_000_000, dtype=pl.Int64))
    _write(copied / "members.parquet", many)
    assert (copied / "members.parquet").stat().st_size < 100_000
    with pytest.raises(compfast.StorageError, match="has 3000000 rows; the run has at most 4"):
        _ = compfast.load(copied).members
