"""Runs by the command line, in this process: what they print, write and leave with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_lines import SMALL, refused

import compfast
from compfast import ensemble
from compfast.cli.results import LINES
from compfast.config import Config
from compfast.ensemble import main
from compfast.storage import durable


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished native run of SMALL."""
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main([*SMALL, "--engine", "native", "--quiet", "--out", str(out)]) == 0
    return out


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
    header = next(i for i, line in enumerate(lines) if "gamma" in line and "leading" in line)
    assert len(lines) - header <= LINES
    assert lines[header + 1].split()[:3] == ["0.3", "to", "0.7"]  # both lead to one verdict
    assert "4 of 4  100 % (51 to 100)" in lines[header + 1]
    assert f"page: {out / 'report' / 'index.html'}" in lines
    assert f"picture: {out / 'report' / 'phase_diagram.png'}" in lines
    assert lines[-2:] == [
        f"members: {out / 'members.parquet'}",
        f"full table: compfast table {out}",
    ]
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
        (["--lr", "0.5"], ["--lr 0.5", "0.002"]),
        (["--layers", "1,2"], ["--layers 1,2", "with 1"]),
        (["--models", "8"], ["--models 8", "with 4"]),
        (["--gamma-range", "0.1:0.7"], ["--gamma-range 0.1:0.7", "0.3:0.7"]),
        (["--seeds", "3"], ["--seeds 3", "with 2"]),
        (["--seed", "1"], ["--seed 1", "with 0"]),
        (["--engine", "eager"], ["--engine eager", "native"]),
        (["--device", "cuda"], ["--device cuda", "auto"]),
        (["--variant", "both-unseen"], ["--variant both-unseen", "(3, 4, -6)"]),
        (["--preset", "paper"], ["--preset paper (task.item_high = 100)", "36"]),
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
    file.write_text("[model]\nheads = 4\n")
    sentence = refused(capsys, "--resume", str(finished), "--config", str(file))
    assert "model.heads = 4" in sentence


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

    monkeypatch.setattr(durable, "write", full)
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

    def written(run: compfast.Run, folder: Path, *_: object) -> list[Path]:
        steps.append(run.step)
        return []

    monkeypatch.setattr(compfast.report, "write_report", written)
    out = ["--out", str(tmp_path / "run"), "--quiet"]
    assert main([*SMALL, "--report-every", "6", *out]) == 0
    # Rows fall on 4, 6, 8 and 12, checkpoints on 5, 10 and the end; the last report is the final.
    assert steps == [6, 12]
