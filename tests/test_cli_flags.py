"""From flags, presets and files to a config; what is refused, in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_lines import RANGE, SMALL, config_of, refused

from compfast import config as cfg
from compfast.cli import flags
from compfast.config import SEEDS, Config
from compfast.ensemble import main
from compfast.tasks import preset
from compfast.tasks.anchor import AnchorConfig


def test_range_and_seeds_span_the_innermost_axes() -> None:
    config = config_of("--models", "12", "--gamma-range", "0.1:0.4", "--seeds", "3")
    assert config.sweep == (("init.gamma", (0.1, 0.2, 0.3, 0.4)), ("seed", (0, 1, 2)))
    assert config_of("--models", "512", "--gamma-range", "0.1:1.5").sweep[1][1] == tuple(range(16))


def test_lists_are_outermost_in_the_order_of_the_flags() -> None:
    config = config_of(
        *["--models", "32", "--gamma-range", "0.1:0.4", "--seeds", "2", "--seed", "5"],
        *["--lr", "1e-3,2e-3", "--layers", "2:4:2", "--set", "optimizer.clip=[1.0]"],
    )
    assert [path for path, _ in config.sweep] == [
        "optimizer.clip", "model.layers", "optimizer.lr", "init.gamma", "seed",
    ]  # fmt: skip
    axes = dict(config.sweep)
    assert axes["model.layers"] == (2, 4)
    assert axes["optimizer.lr"] == (1e-3, 2e-3)
    assert axes["seed"] == (5, 6)


def test_single_gamma_takes_all_models_as_seeds() -> None:
    config = config_of("--models", "5", "--gamma-range", "0.5:0.5")
    assert config.sweep == (("init.gamma", (0.5,)), ("seed", (0, 1, 2, 3, 4)))


def test_preset_file_and_flags_come_in_this_order(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[model]\nlayers = 3\nd_ff = 48\n[optimizer]\nlr = 5e-4\n")
    given = ["--preset", "paper", "--config", str(file), "--lr", "7e-4"]
    config = config_of(*RANGE, *given)
    assert preset("paper")["model"]["layers"] == 2
    assert (config.model.layers, config.model.d_ff) == (3, 48)
    assert config.optimizer.lr == 7e-4
    assert config.model.d_model == 400
    assert config.training.batch_size == 2048


def test_a_settings_file_may_hold_the_whole_sweep(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text('[sweep]\nseed = [4, 7]\n"init.gamma" = [0.1, 0.3]\n"model.layers" = [1, 2]\n')
    config = config_of("--config", str(file))
    assert config.sweep == (
        ("model.layers", (1, 2)),
        ("init.gamma", (0.1, 0.3)),
        ("seed", (4, 7)),
    )
    one_depth = config_of("--config", str(file), "--layers", "3")
    assert dict(one_depth.sweep).keys() == {"init.gamma", "seed"}
    assert one_depth.model.layers == 3
    more_seeds = config_of("--config", str(file), "--seeds", "3", "--models", "12")
    assert dict(more_seeds.sweep)["seed"] == (0, 1, 2)


def test_variants() -> None:
    assert config_of(*RANGE, "--variant", "standard").task == Config().task
    both = config_of(*RANGE, "--variant", "both-unseen").task
    assert isinstance(both, AnchorConfig)
    assert both.unseen == ((3, 4), (4, 3))
    assert both.overridden == ()


def test_snapshots() -> None:
    assert config_of(*RANGE, "--snapshots", "0,5,10").run.snapshots == (0, 5, 10)
    steps = config_of(*RANGE, "--steps", "1000", "--snapshots", "log:4").run.snapshots
    assert steps == (1, 10, 100, 1000)


def test_every_field_of_a_flag_exists() -> None:
    for path in [*flags.FIELD_FLAGS.values(), *(path for path, _ in flags.LIST_FLAGS.values())]:
        if path in SEEDS:
            continue
        section, name = path.split(".")
        assert name in cfg.names(getattr(Config(), section))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--models", "4", "--gamma-range", "x"], ["--gamma-range is 'x'", "LO:HI", "0.1:1.5"]),
        (["--models", "4", "--gamma-range", "1.5:0.1"], ["--gamma-range", "1.5:0.1", "LO"]),
        (["--models", "4", "--gamma-range", "nan:1"], ["--gamma-range is 'nan:1'", "finite"]),
        (["--models", "4", "--gamma-range", "0:inf"], ["--gamma-range is '0:inf'", "finite"]),
        (["--models", "4", "--gamma-range", "0:1:2"], ["--gamma-range is '0:1:2'"]),
        (["--models", "0", "--gamma-range", "0:1"], ["--models is 0", "at least 1"]),
        (["--models", "-4", "--gamma-range", "0:1"], ["--models is -4", "at least 1"]),
        (["--models", "4.5", "--gamma-range", "0:1"], ["--models is '4.5'", "whole number"]),
        (["--models", "1", "--gamma-range", "0:1"], ["--models is 1", "one gamma"]),
        (["--models", "4"], ["--models needs --gamma-range"]),
        (["--gamma-range", "0:1"], ["--gamma-range needs --models"]),
        ([], ["nothing says what to train", "--models 512 --gamma-range 0.1:1.5"]),
        (["--models"], ["--models needs a value"]),
        (["--modles", "4"], ["--modles is not known", "did you mean --models?"]),
        (["--mod", "4"], ["--mod is not known"]),
        (["stray"], ["stray is not known"]),
        (["--quiet=3"], ["--quiet"]),
        ([*RANGE, "--seeds", "3"], ["4 models", "3 seeds", "nearest"]),
        ([*RANGE, "--seeds", "0"], ["--seeds is 0"]),
        ([*RANGE, "--seed", "-1"], ["--seed is -1"]),
        ([*RANGE, "--seed", str(2**53)], ["--seed is 9007199254740992"]),
        ([*RANGE, "--layers", "2,3,4"], ["4 models", "6 does"]),
        ([*RANGE, "--layers", "0"], ["model.layers is 0", "at least 1"]),
        ([*RANGE, "--layers", "two"], ["--layers is 'two'", "whole number"]),
        ([*RANGE, "--layers", "2,2"], ["--layers '2,2'", "equal"]),
        ([*RANGE, "--lr", "nan"], ["--lr is 'nan'", "finite"]),
        ([*RANGE, "--lr", "-1"], ["optimizer.lr is -1", "at least 0"]),
        ([*RANGE, "--steps", "0"], ["training.steps is 0", "at least 1"]),
        ([*RANGE, "--steps", "1.5"], ["--steps is 1.5", "whole number"]),
        ([*RANGE, "--batch-size", "-2"], ["training.batch_size is -2"]),
        ([*RANGE, "--threads", "0"], ["run.threads is 0"]),
        ([*RANGE, "--eval-every", "0"], ["training.eval_every is 0"]),
        ([*RANGE, "--report-every", "-1"], ["run.report_every is -1"]),
        ([*RANGE, "--task", "ancor"], ["ancor", "anchor"]),
        ([*RANGE, "--variant", "odd"], ["--variant is 'odd'", "standard, both-unseen"]),
        ([*RANGE, "--preset", "huge"], ["--preset is 'huge'", "tiny, replica, paper"]),
        ([*RANGE, "--engine", "nativ"], ["--engine is 'nativ'", "mean native?"]),
        ([*RANGE, "--device", "gpu"], ["--device is 'gpu'", "cuda"]),
        ([*RANGE, "--precision", "fp16"], ["--precision is 'fp16'", "fp32, tf32, bf16"]),
        ([*RANGE, "--shard", "4/4"], ["--shard is '4/4'", "I/N"]),
        ([*RANGE, "--shard", "0/10"], ["shard 0/10", "empty"]),
        ([*RANGE, "--snapshots", "log:x"], ["--snapshots log:N is 'x'"]),
        ([*RANGE, "--snapshots", "-1"], ["--snapshots is '-1'"]),
        ([*RANGE, "--snapshots", "99999999"], ["--snapshots is '99999999'", "between 0 and"]),
        ([*RANGE, "--config", "/no/such.toml"], ["settings file /no/such.toml cannot be read"]),
        ([*RANGE, "--set", "model.layer=3"], ["model.layer is not known", "mean layers?"]),
        ([*RANGE, "--set", "layers=3"], ["--set got 'layers=3'"]),
        ([*RANGE, "--set", "run.engine=['native']"], ["run.engine", "not allowed"]),
        ([*RANGE, "--set", "evaluation.share=2"], ["evaluation.share is 2"]),
        (
            [*RANGE, "--models", "8", "--set", "training.steps=[5,6]"],
            ["sweep path 'training.steps'"],
        ),
        ([*RANGE, "--set", "init.gamma=nan"], ["init.gamma is nan"]),
        ([*RANGE, "--out", "/dev/null"], ["--out /dev/null is a file"]),
        (["--resume", "/no/such/run"], ["/no/such/run is not a run folder"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_sentence(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    sentence = refused(capsys, *argv)
    for word in words:
        assert word in sentence
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[model\n", ["is not TOML"]),
        ("[modle]\nlayers = 2\n", ["[modle] is not known", "did you mean model?"]),
        ("layers = 2\n", ["[layers] is not known"]),
        ("model = 2\n", ["[model] is 2", "table"]),
        ("[model]\nlayers = '2'\n", ["model.layers is '2'", "whole number"]),
        ('[sweep]\n"model.layer" = [2]\n', ["model.layer is not known"]),
        ("sweep = 3\n", ["sweep is 3"]),
        ('[sweep]\n"init.gamma" = [nan]\n', ["gamma", "nan"]),
    ],
)
def test_bad_settings_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, words: list[str]
) -> None:
    file = tmp_path / "a.toml"
    file.write_text(content)
    sentence = refused(capsys, "--config", str(file), "--out", str(tmp_path / "run"))
    for word in words:
        assert word in sentence
    assert not (tmp_path / "run").exists()


def test_an_engine_that_is_not_there_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compfast.engines.cuda_devices", lambda: 0)
    out = ["--out", str(tmp_path / "run")]
    assert "no CUDA device" in refused(capsys, *RANGE, "--device", "cuda", *out)
    assert "no CUDA device" in refused(capsys, *RANGE, "--engine", "triton", *out)
    assert not (tmp_path / "run").exists()


def test_dry_run_prints_plan_and_grid_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert main([*SMALL, "--engine", "native", "--dry-run", "--out", str(out)]) == 0
    plan, grid = capsys.readouterr().out.splitlines()
    assert plan.startswith("4 members, ")
    for words in ("parameters each", "native engine", "fp32", "1 thread", "iB", "about"):
        assert words in plan
    assert grid == "grid: 2 of init.gamma (0.3, 0.7) x 2 of seed (0, 1) = 4 members"
    assert not out.exists()


def test_help_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for flag in (*flags.FIELD_FLAGS, *flags.LIST_FLAGS, "--gamma-range", "--resume", "--cluster"):
        assert flag in text
