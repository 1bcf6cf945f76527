"""Ranges that are even in log: the same twelve digits wherever they are computed."""

from __future__ import annotations

import decimal
import math

import pytest
from command_lines import RANGE, config_of, refused
from hypothesis import given
from hypothesis import strategies as st

from compfast.ensembles.grid import parse_values
from compfast.ensembles.spacing import between, between_in_log
from compfast.errors import UsageError

edge = pytest.mark.edge(
    "a range `log:LO:HI:N` that holds 0, is reversed, or of whole numbers has a broken one",
    "one sentence that names the range and the value",
)
TENTHS = (0.0001, 0.000177827941004, 0.000316227766017, 0.00056234132519, 0.001)


def test_values_are_even_in_log_in_twelve_digits() -> None:
    assert parse_values("--lr", "log:1e-4:1e-3:5", float) == TENTHS
    nine = parse_values("--lr", "log:1e-4:1e-2:9", float)
    assert nine[:5] == TENTHS
    assert nine[-1] == 1e-2
    assert parse_values("--lr", "log:3:3:1", float) == (3.0,)
    third = 1 / 3  # more digits than inner values have; an end keeps them
    assert parse_values("--lr", f"log:0.1:{third!r}:2", float) == (0.1, third)


def test_whole_numbers_where_every_value_is_one() -> None:
    widths = parse_values("--d-model", "log:16:256:5", int)
    assert widths == (16, 32, 64, 128, 256)
    assert all(type(width) is int for width in widths)


@given(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300), st.integers(0, 2**32))
def test_no_value_leaves_its_range(one: float, other: float, part: int) -> None:
    low, high = sorted((one, other))
    for value in (between_in_log(low, high, part, 2**32), between(low, high, part, 2**32)):
        assert low <= value <= high
        assert value in (low, high) or value == float(f"{value:.12g}")


def test_values_do_not_hang_on_the_callers_decimals() -> None:
    with decimal.localcontext(decimal.Context(prec=3, rounding=decimal.ROUND_UP)):
        assert parse_values("--lr", "log:1e-4:1e-3:5", float) == TENTHS
    assert between_in_log(1e-3, 1.0, 1, 7) == pytest.approx(math.exp(math.log(1e-3) * 6 / 7), 1e-11)


def test_every_list_takes_one() -> None:
    flags = ["--lr", "log:1e-4:1e-3:5", "--models", "20"]
    assert dict(config_of(*RANGE, *flags).sweep)["optimizer.lr"] == TENTHS
    flags = ["--set", "optimizer.lr=log:1e-4:1e-3:5", "--models", "20"]
    assert dict(config_of(*RANGE, *flags).sweep)["optimizer.lr"] == TENTHS
    flags = ["--weight-decay", "log:1e-2:1:3", "--models", "12"]
    assert dict(config_of(*RANGE, *flags).sweep)["optimizer.weight_decay"] == (0.01, 0.1, 1.0)
    flags = ["--snapshots", "log:1:1000:4", "--steps", "1000"]
    assert config_of(*RANGE, *flags).run.snapshots == (1, 10, 100, 1000)


@edge
@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("log:0:1:3", float, "'log:0:1:3'; a range that is even in log needs LO > 0"),
        ("log:-1:1:3", float, "LO > 0"),
        ("log:2:1:3", float, "2.0:1.0 is reversed"),
        ("log:1:2:0", float, "has 0 values"),
        ("log:1:2:1", float, "has 1 values"),
        ("log:nan:2:3", float, "finite"),
        ("log:1:2:x", float, "'x' is not a whole number"),
        ("log:1:2", float, "log:LO:HI:N; LO:HI without :N needs --sample"),
        ("log:4", float, "it must be X, X,Y,Z, LO:HI:N or log:LO:HI:N"),
        ("log:16:256:4", int, "has 40.3174735966 in it; whole numbers are needed"),
        ("log:1:1.0000000000000002:4", float, "equal values"),
    ],
)
def test_what_is_no_range_is_refused(text: str, kind: type, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_values("--flag", text, kind)
    assert str(caught.value).startswith("--flag")
    assert words in str(caught.value)


@edge
def test_the_command_line_says_so_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, *RANGE, "--heads", "log:1:8:3")
    assert said.startswith("--heads is 'log:1:8:3', which has 2.82842712475 in it")
