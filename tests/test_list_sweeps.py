"""Sweeps whose every value is a list (decay windows, schedule points), and those whose values go
together with a setting that all members share."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from command_lines import config_of, refused
from made_runs import made_run

from compfast.cli.plan import grid_line
from compfast.config import Config, settings
from compfast.ensembles.grid import member_specs
from compfast.ensembles.table import spec_columns
from compfast.errors import UsageError
from compfast.report import style

TWO = ("--gamma-range", "0.1:1.5", "--models", "96")
EARLY, LATE = ((0.0, 0.3),), ((0.25, 0.5), (0.75, 1.0))
FALL, FLAT = ((0.0, 1.0), (1.0, 0.0)), ((0.0, 1.0),)
TOGETHER = pytest.mark.edge(
    'a schedule "points" whose points are swept, Nesterov with a swept momentum',
    "trained: the settings count with each member's value",
)


@pytest.mark.parametrize(
    ("text", "swept"),
    [
        ("[[], [[0, 0.3]], [[0.25, 0.5], [0.75, 1]]]", ((), EARLY, LATE)),
        ("[[],[[0,.3]],[[.25,.5],[.75,1.]]]", ((), EARLY, LATE)),
        ("[[0, 0.3]], [[0.25, 0.5], [0.75, 1]]", (EARLY, LATE)),
        ("[[[0, 0.3]]]", (EARLY,)),
        ("[[]]", ((),)),
    ],
)
def test_windows_on_the_command_line(text: str, swept: tuple[Any, ...]) -> None:
    config = config_of(*TWO, "--set", f"optimizer.decay_windows={text}")
    assert dict(config.sweep)["optimizer.decay_windows"] == swept
    assert {spec.optimizer.decay_windows for spec in member_specs(config)} == set(swept)


def test_one_value_is_no_sweep() -> None:
    for text, wanted in (("[[0, 0.3]]", EARLY), ("[[0.25, 0.5], [0.75, 1]]", LATE), ("[]", ())):
        config = config_of(*TWO, "--set", f"optimizer.decay_windows={text}")
        assert config.optimizer.decay_windows == wanted
        assert "optimizer.decay_windows" not in dict(config.sweep)


POINTS = "optimizer.points=[[[0, 1], [1, 0]], [[0, 1]]]"


@TOGETHER
def test_points_on_the_command_line_and_in_a_file(tmp_path: Path) -> None:
    said = config_of(*TWO, "--set", "optimizer.schedule=points", "--set", POINTS)
    assert dict(said.sweep)["optimizer.points"] == (FALL, FLAT)
    assert {spec.optimizer.points for spec in member_specs(said)} == {FALL, FLAT}
    assert said.optimizer.points == FALL
    assert settings.from_dict(settings.to_dict(said)) == said
    file = tmp_path / "sweep.toml"
    file.write_text(
        '[optimizer]\nschedule = "points"\n[sweep]\n'
        '"optimizer.points" = [[[0, 1], [1, 0]], [[0, 1]]]\n'
    )
    assert config_of("--config", str(file), *TWO) == said


@TOGETHER
@pytest.mark.parametrize(
    ("sections", "swept"),
    [
        ({"optimizer": {"nesterov": True}}, {"optimizer.momentum": (0.5, 0.9)}),
        ({"model": {"heads": 5}}, {"model.d_model": (10, 20)}),
        ({"model": {"heads": 5, "d_model": 32}}, {"model.d_model": (10, 20)}),
        ({"task": {"item_low": 40}}, {"task.item_high": (50, 60)}),
        ({"task": {"name": "markov", "states": 3}}, {"task.chain": ("switching", "random")}),
        ({"optimizer": {"schedule": "points"}}, {"optimizer.points": (FALL, FLAT)}),
    ],
)
def test_settings_that_need_the_members_values(
    sections: dict[str, Any], swept: dict[str, Any]
) -> None:
    ((path, values),) = swept.items()
    section, _, name = path.partition(".")
    for home in ("sweep", "sample"):
        config = settings.from_dict({**sections, home: swept})
        assert getattr(getattr(config, section), name) == values[0]
        found = [getattr(getattr(spec, section), name) for spec in member_specs(config)]
        assert found == list(values)
        assert settings.from_dict(settings.to_dict(config)) == config
    with pytest.raises(UsageError):
        settings.from_dict(sections)


@pytest.mark.parametrize("given", [{"lr": -1.0}, {"momentum": 1.0, "nesterov": True}])
def test_a_value_that_is_never_allowed_is_refused_where_members_have_theirs(given: Any) -> None:
    sweep = {"optimizer.lr": (0.1, 0.2), "optimizer.momentum": (0.5, 0.9)}
    with pytest.raises(UsageError, match=r"optimizer\.(lr is -1|momentum is 1)"):
        settings.from_dict({"optimizer": given, "sweep": sweep})


def test_what_goes_together_stays_as_it_is() -> None:
    config = Config(optimizer={"lr": 0.5}, sweep={"optimizer.lr": (0.1, 0.2)})  # type: ignore[arg-type]
    assert config.optimizer.lr == 0.5


@TOGETHER
def test_a_drawn_momentum_goes_with_nesterov() -> None:
    nesterov = "--set", "optimizer.nesterov=true"
    config = config_of("--sample", "5", *nesterov, "--set", "optimizer.momentum=0.5:0.9")
    drawn = dict(config.sample)["optimizer.momentum"]
    assert len(drawn) == 5
    assert all(0.5 <= momentum <= 0.9 for momentum in drawn)
    assert [s.optimizer.momentum for s in member_specs(config)] == list(drawn)
    assert "optimizer.momentum" not in dict(config.sweep)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("optimizer.decay_windows=[[[0.5, 0.2]], []]", r"decay_windows is [[0.5, 0.2]]; it must"),
        ("optimizer.decay_windows=early,late", "decay_windows is 'early,late'; it must be a list"),
        ("optimizer.points=[[[0, 1]], [[0.5, 1], [0.2, 1]]]", "optimizer.schedule is 'cosine' wit"),
        ("optimizer.weight_decay_ffn=0.1,-1", "optimizer.weight_decay_ffn is -1.0; it must be a"),
        ("optimizer.weight_decay_ffm=0.1", "did you mean weight_decay_ffn?"),
    ],
)
def test_lists_that_are_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, change: str, said: str
) -> None:
    out = "--out", str(tmp_path / "run")
    assert said in refused(capsys, *TWO, *out, "--set", change)
    assert not list(tmp_path.iterdir())


def test_group_decays_are_swept_like_every_number() -> None:
    def swept(text: str) -> Any:
        config = config_of(*TWO, "--set", f"optimizer.weight_decay_ffn={text}")
        return dict(config.sweep)["optimizer.weight_decay_ffn"]

    assert swept("0.01,0.1") == swept("log:0.01:0.1:2") == swept("0.01:0.1:2") == (0.01, 0.1)
    assert swept("none,0.5") == (None, 0.5)
    config = config_of("--sample", "4", "--set", "optimizer.weight_decay_ffn=log:0.01:1")
    assert len(set(dict(config.sample)["optimizer.weight_decay_ffn"])) == 4


def test_plans_tables_and_captions_name_them() -> None:
    config = settings.from_dict(
        {
            "optimizer": {"weight_decay_head": 0.5},
            "sweep": {
                "optimizer.decay_windows": [[], [[0, 0.3]]],
                "optimizer.weight_decay_ffn": ["none", 0.25],
                "seed": [0],
            },
        }
    )
    assert "2 of optimizer.decay_windows ([], [[0.0,0.3]]) x 2 of optimizer.weight_" in grid_line(
        config
    )
    columns = spec_columns(member_specs(config))
    assert columns["weight_decay_ffn"].to_list() == [None, 0.25] * 2
    assert columns["weight_decay_head"].to_list() == [0.5] * 4
    assert columns["decay_windows"].to_list() == ["[]"] * 2 + ["[[0.0, 0.3]]"] * 2
    said = style.caption(config, made_run([0.5], 1).members, "native")
    words = (
        "weight decay 0.12 (of ffn none, 0.25, of head 0.5) inside [], [[0.0,0.3]] of the steps;"
    )
    assert words in said
    assert "weight decay of ffn" not in said
    assert style.field_name("optimizer.weight_decay_qk") == "weight decay of qk"


def test_the_examples_of_docs_sweeps(tmp_path: Path, native_extension: None) -> None:
    text = (Path(__file__).parents[1] / "docs/sweeps.md").read_text()
    exec(compile(_code(text, "python"), "docs/sweeps.md", "exec"), {})
    file = tmp_path / "sweep.toml"
    file.write_text(_code(text, "toml"))
    members = member_specs(config_of("--config", str(file), *TWO))
    assert len({(s.optimizer.points, s.optimizer.decay_windows) for s in members}) == 4
    written = [line for line in text.splitlines() if line.startswith("    --set")]
    for line in written:
        config = config_of(*shlex.split(line, comments=True), "--seeds", "1")
        assert member_specs(config)
    assert len(written) == 3


def _code(text: str, language: str) -> str:
    return text.partition(f"```{language}\n")[2].partition("```")[0]
