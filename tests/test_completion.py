"""Help in groups, and scripts with which a shell completes."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compfast.__main__ import COMMANDS, main
from compfast.cli import flags
from compfast.config.plugins import known_tasks
from compfast.ensemble import main as train

SCREEN = 24  # lines
DAILY = flags.GROUPS["daily use"]


def test_the_first_screen_of_help_has_the_ten_flags_of_daily_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        train(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    shown = [line.split()[0] for line in lines[:SCREEN] if line.startswith("  --")]
    assert len(DAILY) == 10
    assert tuple(shown[:10]) == DAILY
    titles = [line.rstrip(":") for line in lines if line.endswith(":") and line[0] != " "]
    assert titles == [*flags.GROUPS, "help"]


def test_every_flag_is_in_one_group() -> None:
    grouped = [flag for group in flags.GROUPS.values() for flag in group]
    known = {*flags.FIELD_FLAGS, *flags.LIST_FLAGS, *flags._OWN}
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == known


@pytest.mark.edge(
    "compfast completion for a shell that it does not know, or without shtab",
    "one sentence: the shells that there are, or the pip line; exit 2",
)
@pytest.mark.parametrize(
    ("shell", "words"),
    [("tcsh", "'tcsh'; it must be one of bash, zsh, fish"), ("bash", "pip install shtab")],
)
def test_no_script_is_said(
    shell: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", shell]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script of each shell, named after it."""
    pytest.importorskip("shtab")
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "fish"):
        with pytest.MonkeyPatch.context() as patch, open(folder / shell, "w") as stream:
            patch.setattr(sys, "stdout", stream)
            assert main(["completion", shell]) == 0
    return folder


CASES: list[tuple[str, set[str] | None, set[str]]] = [
    # typed so far, the answers (None: not all are listed), some of them
    ("t", {"train", "table"}, set()),
    ("", {*COMMANDS}, set()),
    ("train --see", {"--seeds", "--seed"}, set()),
    ("train --engine ", {"auto", "eager", "native", "triton", "cuda"}, set()),
    ("train --gamma-range 0.1:1.5 --precision ", {"fp32", "tf32", "bf16"}, set()),
    ("train --task ", {*known_tasks()}, set()),
    ("train --preset r", None, {"replica"}),
    ("train --dry-run --quiet --start-mode ", {"go_on", "restart"}, set()),
    ("completion z", {"zsh"}, set()),
    ("report some", {"some_run", "some_other"}, set()),
    ("report --figures some", {"some_run", "some_other"}, set()),
    ("report --style ", {"plain", "paper"}, set()),
    ("resume some_r", {"some_run"}, set()),
    ("table some_run --c", {"--csv"}, set()),
    ("train --config set", {"settings.toml"}, set()),
    ("train --models ", set(), set()),
]


def test_bash_completes(scripts: Path, tmp_path: Path) -> None:
    for name in ("some_run", "some_other"):
        (tmp_path / name).mkdir()
    (tmp_path / "settings.toml").touch()
    driver = [
        f"source {scripts / 'bash'}",
        "complete -p compfast",
        'answers() { COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); _shtab_compfast;'
        ' echo "${COMPREPLY[*]}"; }',
    ]
    for typed, *_ in CASES:
        words = " ".join(f"'{word}'" for word in typed.split(" "))
        driver.append(f"answers compfast {words}")
    told = subprocess.run(
        ["bash", "-c", "\n".join(driver)], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert told.stderr == ""
    registered, *answers = told.stdout.split("\n")[:-1]
    assert registered.endswith("_shtab_compfast compfast")
    for (typed, whole, some), answer in zip(CASES, answers, strict=True):
        found = set(answer.split())
        assert found == whole if whole is not None else found >= some, (typed, found)


def test_a_key_pressed_in_bash(scripts: Path) -> None:
    """A real interactive shell on a terminal, and the tab key."""
    shell, terminal = pty.fork()
    if shell == 0:
        os.environ |= {"PS1": "", "TERM": "dumb", "INPUTRC": "/dev/null"}
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
    try:
        os.write(terminal, f"source {scripts / 'bash'}; echo re''ady\n".encode())
        _until(terminal, b"ready")
        os.write(terminal, b"compfast tra\t--gamma-r\t")
        _until(terminal, b"compfast train --gamma-range ")
    finally:
        os.write(terminal, b"\x03exit\n")
        os.close(terminal)
        os.waitpid(shell, 0)


def _until(terminal: int, expected: bytes) -> None:
    said, last = b"", time.monotonic() + 20
    while expected not in said:
        ready, _, _ = select.select([terminal], [], [], max(0.0, last - time.monotonic()))
        assert ready, said
        said += os.read(terminal, 4096)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_take_their_scripts(shell: str, scripts: Path) -> None:
    text = (scripts / shell).read_text()
    for words in (*COMMANDS, "gamma-range", "replica", "native"):
        assert words in text
    if shutil.which(shell) is None:
        return
    command = [shell, "-n", str(scripts / shell)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (told.returncode, told.stderr) == (0, "")
