"""The command line: what flags mean, one sentence for what is not allowed, whole runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest

import compfast
from compfast import config as cfg
from compfast import ensemble, storage
from compfast.cli import flags, request
from compfast.config import Config
from compfast.ensemble import main
from compfast.presets import preset

RANGE = ["--models", "4", "--gamma-range", "0.3:0.7", "--seeds", "2"]
SMALL = [
    *RANGE, "--layers", "1", "--d-model", "8", "--batch-size", "4", "--steps", "12",
    "--log-every", "4", "--eval-every", "6", "--checkpoint-every", "5", "--threads", "1",
    "--set", "evaluation.seen_items=16", "--set", "evaluation.unseen_items=16",
]  # fmt: skip
TRAIN_TIME_LIMIT = 120.0  # seconds; only to end a test that hangs


def config_of(*argv: str) -> Config:
    return request.new_config(flags.parse(argv))


def refused(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 2) -> str:
    """The one sentence that `argv` is refused with."""
    assert main(argv) == code
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    lines = printed.err.splitlines()
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("compfast: ")
    assert printed.out == "" or code != 2
    return lines[0].removeprefix("compfast: ")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished native run of SMALL."""
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main([*SMALL, "--engine", "native", "--quiet", "--out", str(out)]) == 0
    return out


def test_range_and_seeds_span_the_innermost_axes() -> None:
    config = config_of("--models", "12", "--gamma-range", "0.1:0.4", "--seeds", "3")
    assert config.sweep == (("init.gamma", (0.1, 0.2, 0.3, 0.4)), ("seed", (0, 1, 2)))
    assert config_of("--models", "512", "--gamma-range", "0.1:1.5").sweep[1][1] == tuple(range(8))


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
    assert config_of(*RANGE, "--variant", "standard").task == cfg.TaskConfig()
    both = config_of(*RANGE, "--variant", "both-unseen").task
    assert both.unseen == ((3, 4), (4, 3))
    assert both.overridden == ()


def test_snapshots() -> None:
    assert config_of(*RANGE, "--snapshots", "0,5,10").run.snapshots == (0, 5, 10)
    steps = config_of(*RANGE, "--steps", "1000", "--snapshots", "log:4").run.snapshots
    assert steps == (1, 10, 100, 1000)


def test_every_field_of_a_flag_exists() -> None:
    for path in [*flags.FIELD_FLAGS.values(), *(path for path, _ in flags.LIST_FLAGS.values())]:
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


@pytest.mark.parametrize("engine", ["native", "eager"])
def test_a_whole_run(capsys: pytest.CaptureFixture[str], tmp_path: Path, engine: str) -> None:
    out = tmp_path / "run"
    assert main([*SMALL, "--engine", engine, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    assert f"{engine} engine" in lines[0]
    assert lines[1] == f"run folder: {out}"
    assert any(line.startswith("step 12/12 | ") and "fitted" in line for line in lines)
    header = next(i for i, line in enumerate(lines) if "gamma" in line and "mean seen" in line)
    assert [line.split()[:2] for line in lines[header + 1 : header + 3]] == [
        ["0.3", "2"],
        ["0.7", "2"],
    ]
    assert lines[-2:] == [str(out / "report" / n) for n in ("phase_diagram.png", "index.html")]
    run = compfast.load(out)
    assert run.finished
    assert run.members.height == 4
    assert run.info["engine"] == engine


def test_default_out_names_task_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, "--quiet"]) == 0
    (made,) = (tmp_path / "runs").iterdir()
    assert made.name.startswith("anchor-2")


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*SMALL, "--quiet", "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr() == ("", "")


def test_out_that_is_not_empty_is_refused(
    capsys: pytest.CaptureFixture[str], finished: Path
) -> None:
    before = (finished / "config.json").read_bytes()
    assert "is not empty" in refused(capsys, *SMALL, "--out", str(finished))
    assert (finished / "config.json").read_bytes() == before


def test_resuming_a_finished_run_leaves_it_untouched(
    capsys: pytest.CaptureFixture[str], finished: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    assert main(["--resume", str(finished)]) == 0
    assert "finished; nothing to do" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--lr", "0.5"], ["--lr 0.5", "0.001"]),
        (["--layers", "1,2"], ["--layers 1,2", "with 1"]),
        (["--models", "8"], ["--models 8", "with 4"]),
        (["--gamma-range", "0.1:0.7"], ["--gamma-range 0.1:0.7", "0.3:0.7"]),
        (["--seeds", "3"], ["--seeds 3", "with 2"]),
        (["--seed", "1"], ["--seed 1", "with 0"]),
        (["--engine", "eager"], ["--engine eager", "native"]),
        (["--device", "cuda"], ["--device cuda", "auto"]),
        (["--variant", "both-unseen"], ["--variant both-unseen", "(3, 4, -6)"]),
        (["--preset", "paper"], ["--preset paper (task.data = fixed)", "fresh"]),
        (["--shard", "0/2"], ["--shard 0/2"]),
        (["--set", "model.norm=post"], ["--set model.norm=post", "pre"]),
        (["--set", "init.gamma=[0.1, 0.2]"], ["--set init.gamma", "0.3,0.7"]),
        (["--out", "elsewhere"], ["--out elsewhere"]),
    ],
)
def test_a_contradiction_to_the_stored_run_is_refused(
    capsys: pytest.CaptureFixture[str], finished: Path, argv: list[str], words: list[str]
) -> None:
    sentence = refused(capsys, "--resume", str(finished), *argv)
    for word in words:
        assert word in sentence


def test_the_same_flags_and_those_that_may_change_are_taken(finished: Path, tmp_path: Path) -> None:
    changed = ["--threads", "2", "--checkpoint-every", "3", "--report-every", "5", "--quiet"]
    assert main(["--resume", str(finished), *SMALL, "--out", str(finished), *changed]) == 0
    assert main(["--resume", str(finished), *changed, "--engine", "auto"]) == 0
    file = tmp_path / "a.toml"
    file.write_text("[model]\nlayers = 1\n")
    same = ["--resume", str(finished), "--preset", "tiny", "--config", str(file), *SMALL]
    assert main([*same, "--quiet"]) == 0


def test_a_file_that_contradicts_is_refused(
    capsys: pytest.CaptureFixture[str], finished: Path, tmp_path: Path
) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[model]\nheads = 2\n")
    sentence = refused(capsys, "--resume", str(finished), "--config", str(file))
    assert "model.heads = 2" in sentence


def test_members_that_all_diverge_give_code_5_and_a_report(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    argv = [*SMALL, "--lr", "1e30", "--set", "optimizer.clip=0", "--out", str(out)]
    assert "diverged" in refused(capsys, *argv, code=5)
    assert (out / "report" / "phase_diagram.png").exists()
    assert set(compfast.load(out).members["verdict"]) == {"diverged"}


def test_a_full_disk_gives_code_4(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def full(descriptor: int, data: memoryview) -> int:
        written.append(len(data))
        if len(written) > 6:
            raise OSError(28, "No space left on device")
        return os.write(descriptor, data)

    monkeypatch.setattr(storage, "write", full)
    sentence = refused(capsys, *SMALL, "--out", str(tmp_path / "run"), code=4)
    assert "No space left on device" in sentence
    monkeypatch.undo()
    assert main(["--resume", str(tmp_path / "run"), "--quiet"]) == 0
    assert compfast.load(tmp_path / "run").finished


def test_an_out_that_cannot_be_made_gives_code_4(capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot" in refused(capsys, *SMALL, "--out", "/proc/no/such/run", code=4)


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(config: Config) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ensemble, "plan", broken)
    with pytest.raises(ZeroDivisionError):
        main([*SMALL, "--dry-run"])


def test_reports_while_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import compfast.report

    steps: list[int] = []

    def written(run: compfast.Run, folder: Path) -> list[Path]:
        steps.append(run.step)
        return []

    monkeypatch.setattr(compfast.report, "write_report", written)
    out = ["--out", str(tmp_path / "run"), "--quiet"]
    assert main([*SMALL, "--report-every", "6", *out]) == 0
    # Checkpoints fall on 5, 10 and the end; the first past 6 is 10, the last report is the final.
    assert steps == [10, 12]


def test_help_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for flag in (*flags.FIELD_FLAGS, *flags.LIST_FLAGS, "--gamma-range", "--resume", "--cluster"):
        assert flag in text


def _environment() -> dict[str, str]:
    root = Path(__file__).resolve().parent.parent
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}


def _process(*argv: str, stdout: IO[str] | int = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "compfast.ensemble", *argv]
    return subprocess.Popen(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=_environment()
    )


@pytest.mark.parametrize(
    "argv", [["--models", "4", "--gamma-range", "x"], [*RANGE, "--lrr", "1"], []]
)
def test_a_process_leaves_with_code_2(argv: list[str]) -> None:
    process = _process(*argv)
    out, error = process.communicate(timeout=TRAIN_TIME_LIMIT)
    assert process.returncode == 2
    assert out == ""
    assert error.startswith("compfast: ")
    assert error.count("\n") == 1


def test_a_full_standard_output_does_not_end_the_run(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        process = _process(*SMALL, "--out", str(tmp_path / "run"), stdout=full)
        _, error = process.communicate(timeout=TRAIN_TIME_LIMIT)
    assert process.returncode == 0, error
    assert error.count("\n") == 1
    assert "standard output cannot be written" in error
    assert compfast.load(tmp_path / "run").finished


def test_sigint_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    long = [*SMALL, "--steps", "100000", "--log-every", "1000", "--checkpoint-every", "100000"]
    process = _process(*long, "--out", str(out))
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step "):
            break
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=TRAIN_TIME_LIMIT)
    assert process.returncode == 3, error
    assert time.monotonic() - start < 30
    assert f"continue with --resume {out}" in error
    assert error.count("\n") == 1
    assert not compfast.load(out).finished
    assert json.loads((out / "config.json").read_text())["command"][1:] == [
        *long,
        "--out",
        str(out),
    ]


def test_the_native_path_starts_without_torch_matplotlib_and_rich() -> None:
    code = (
        "import sys, compfast.report, compfast.ensemble as e\n"
        f"assert e.main({[*SMALL, '--engine', 'native', '--dry-run']!r}) == 0\n"
        "print({'torch', 'matplotlib', 'rich'} & set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=_environment(),
    )
    assert answer.stdout.splitlines()[-1] == "set()"
