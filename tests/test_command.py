"""`compfast COMMAND`: each command is the module's own command line, under its own name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_lines import SMALL

import compfast
from compfast.__main__ import COMMANDS, main

pytestmark = pytest.mark.usefixtures("native_extension")


def test_a_run_from_its_training_to_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [tmp_path / f"part-{i}" for i in range(2)]
    for i, part in enumerate(parts):
        assert main(["train", *SMALL, "--shard", f"{i}/2", "--out", str(part), "--quiet"]) == 0
    assert main(["merge", str(tmp_path / "whole"), *map(str, parts), "--quiet"]) == 0
    assert compfast.load(tmp_path / "whole").finished
    page = tmp_path / "whole" / "report" / "index.html"
    page.unlink()
    assert main(["report", str(tmp_path / "whole"), "--quiet"]) == 0
    assert page.exists()
    capsys.readouterr()
    assert main(["resume", str(parts[0])]) == 0
    assert "finished; nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert f"usage: compfast {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            ["trian"],
            "'trian'; it must be one of train, resume, merge, report, watch, analyse, doctor",
        ),
        ([], "COMMAND"),
        (["--models"], "COMMAND"),
        (["resume"], "compfast resume DIR"),
        (["resume", "--quiet"], "compfast resume DIR"),
        (["train", "--modles", "4"], "did you mean --models"),
        (["merge"], "OUT"),
    ],
)
def test_wrong_usage_is_one_sentence(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_the_package_installs_it() -> None:
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    found = re.search(r'^compfast = "([\w.]+):(\w+)"$', project, re.MULTILINE)
    assert found is not None
    module, function = found.groups()
    code = f"import {module} as m; raise SystemExit(m.{function}())"
    given = [sys.executable, "-c", code, "doctor"]
    told = subprocess.run(given, capture_output=True, text=True, timeout=120)
    assert told.returncode == 0
    assert "native extension" in told.stdout
