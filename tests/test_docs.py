"""The manual says what there is: a page a task and a family, names with docstrings, examples and
commands that work. Its links and doctests are checked where it is built (scripts/test.sh)."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from command_lines import config_of

import compfast
from compfast import analysis, export, report
from compfast.config import Kinds, sections
from compfast.config.plugins import family_class, known_families, known_tasks, task_class
from compfast.ensembles.groups import member_groups

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PUBLIC = (compfast, analysis, export, report)
PYPROJECT = (ROOT / "pyproject.toml").read_text()
NOTEBOOK = DOCS / "notebooks" / "mechanism.py"


def _extension(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of docs/_ext."""
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    return importlib.import_module(name)


def _path(section: type) -> str:
    return f"{{settings}} {section.__module__}:{section.__name__}"


@pytest.mark.parametrize("name", known_tasks())
def test_a_task_has_a_page_with_its_settings_presets_and_verdicts(name: str) -> None:
    task, page = task_class(name), (DOCS / "tasks" / f"{name}.md").read_text()
    assert _path(task.Config) in page
    assert f"{{presets}} {name}" in page
    verdicts = page[page.index("## What a verdict means") :]
    for candidate in (*task.candidates, "mixed", "underfit", "diverged"):
        assert f"`{candidate}`" in verdicts, candidate
    assert f"(tasks/{name}.md)" in (DOCS / "tasks.md").read_text()


@pytest.mark.parametrize("name", known_families())
def test_a_family_has_a_page_with_its_settings(name: str) -> None:
    page = (DOCS / "families" / f"{name}.md").read_text()
    assert _path(family_class(name).Config) in page
    assert f"(families/{name}.md)" in (DOCS / "networks.md").read_text()


def test_a_field_is_told_by_the_comments_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = _extension("fields", monkeypatch)
    known = {
        field.name: field
        for field in fields.described(fields.loaded("compfast.config.sections:OptimizerConfig"))
    }
    assert known["lr"] == ("lr", "0.0015", "peak")
    assert known["kind"].meaning == "`adamw`, `sgd`; weight decay is decoupled in both"
    assert "[[Z24](https://arxiv.org/abs/2405.05409): 1]" in known["clip"].meaning
    # The lines above a field are its own, those above the one before it are not.
    assert known["decay"].meaning.startswith("`all`, `matrices`, `arrays`; all: ")
    assert known["decay_windows"].meaning.endswith("none: always on.")
    # A field that a class takes over has the comment of the class that says it last.
    own = fields.described(fields.loaded("compfast.models.bottleneck_config:BottleneckConfig"))
    (causal,) = (field for field in own if field.name == "causal")
    assert (causal.default, causal.meaning) == ("false", "2407.12275")
    (layers,) = (field for field in own if field.name == "layers")
    assert layers.default == "2"


def test_every_setting_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    described = _extension("fields", monkeypatch).described
    kinds = [*sections(Kinds()).values(), *(task_class(name).Config for name in known_tasks())]
    kinds += [family_class(name).Config for name in known_families()]
    words = re.compile(r"(`[\w ]+`(, )?)*")  # those that it takes
    silent = [
        f"{kind.__name__}.{field.name}"
        for kind in kinds
        for field in described(kind)
        if words.fullmatch(field.meaning)
    ]
    assert silent == []


def test_docstrings_are_text_and_mean_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sphinx")
    plain = _extension("plain_docstrings", monkeypatch)
    lines = [
        "|x| * y, shuffled_ and `a_ * b`:",
        "",
        "    a * b",
        "",
        "So *args.",
        ">>> f(x_)",
        "1|",
    ]
    assert plain.rewritten(lines) == [
        *[r"\|x\| \* y, shuffled\_ and `a_ * b`:", "", "", "::", "", "    a * b", ""],
        *[r"So \*args.", ">>> f(x_)", "1|"],
    ]


def _undocumented(home: str, held: object, commented: Any) -> list[str]:
    """Public parts of a public name that say nothing."""
    missing = [] if inspect.getdoc(held) or isinstance(held, dict) else [home]
    if not inspect.isclass(held):
        return missing
    for name, part in vars(held).items():
        told = callable(part) or isinstance(part, (property, functools.cached_property))
        if not name.startswith("_") and told and not (getattr(part, "__doc__", "") or "").strip():
            missing.append(f"{home}.{name}")
    if dataclasses.is_dataclass(held) and held is not compfast.Config:  # whose sections have pages
        said = commented(held)
        missing += [f"{home}.{f.name}" for f in dataclasses.fields(held) if not said[f.name]]
    return missing


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_public_names_say_what_they_are(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    commented = _extension("fields", monkeypatch).commented
    for name in module.__all__:
        assert not _undocumented(name, getattr(module, name), commented)
    assert f"automodule:: {module.__name__}\n   :members:" in "".join(
        page.read_text() for page in (DOCS / "api").iterdir()
    )


def test_what_says_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        """It speaks; its parts do not."""

        def part(self) -> None: ...

    found = _undocumented("Silent", Silent, _extension("fields", monkeypatch).commented)
    assert found == ["Silent.part"]


def _commands() -> list[str]:
    """Every command of the manual and the README that trains, as a line.

    But those that need a file of the user's, a parent or a cluster.
    """
    pages = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    text = "\n".join(page.read_text() for page in pages).replace("\\\n", " ")
    lines = re.findall(r"^    .*?python -m compfast\.ensemble (.*)$", text, re.MULTILINE)
    other = re.compile(r"--(start-from|cluster)|:[A-Z]|own\.toml|\$")
    return sorted({line for line in lines if not other.search(line)})


def test_commands_of_the_manual_are_ensembles() -> None:
    lines = _commands()
    assert len(lines) > 12
    for line in lines:
        config = config_of(*shlex.split(line))
        asked = re.search(r"--models (\d+)", line)
        assert asked is not None, line
        assert sum(map(len, member_groups(config))) == int(asked[1]), line


_SHORT = {"steps": 20, "batch_size": 4, "eval_every": 20, "log_every": 10}


def _python(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def test_the_readmes_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native_extension: None
) -> None:
    (code,) = _python(ROOT / "README.md")
    assert len(code.splitlines()) <= 12
    short = code.replace("compfast.Config(", f"compfast.Config(training={_SHORT}, ")
    assert short != code
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(short, "README.md", "exec"), names)
    assert len(names["run"].members) == 20


def test_the_tutorials_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, native_extension: None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    axes = {"optimizer.weight_decay": [0.03, 0.5], "init.gamma": [0.3, 0.6], "seed": [0, 1]}
    given = {"training": _SHORT, "evaluation": {"fitted": 0}, "sweep": axes}
    for name in ("first", "mine"):
        compfast.train(given, out=f"runs/{name}")
    blocks = _python(DOCS / "tutorial.md")
    assert len(blocks) == 2
    for code in blocks:
        exec(compile(code, "docs/tutorial.md", "exec"), {})
    assert Path("mine.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_pages_outside_of_the_manual_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text()
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not link.startswith("https://"):
            assert (ROOT / link).exists(), link


def test_files_that_the_manual_names_are_there() -> None:
    named = re.compile(r"`(?:python )?((?:tests|experiments|benchmarks|scripts|docs)/[\w/.-]+\w)")
    pages = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    paths = {path for page in pages for path in named.findall(page.read_text())}
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_readme_has_both_commands() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert "    bash scripts/test.sh" in lines
    install = "python3 -m venv .venv && .venv/bin/pip install torch==2.13.0 -e ."
    train = ".venv/bin/python -m compfast.ensemble --models 512 --gamma-range 0.1:1.5"
    assert f"    {install} && {train}" in lines


def test_the_citation_is_of_this_version() -> None:
    yaml = pytest.importorskip("yaml")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = dict(re.findall(r'^(name|version|license) = "(.*)"$', PYPROJECT, re.MULTILINE))
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= cited.keys()  # what the format requires
    assert cited["type"] == "software"
    assert all(author.get("name") or author.get("family-names") for author in cited["authors"])
    assert cited["version"] == project["version"]
    assert cited["license"] == project["license"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_notebook_runs(tmp_path: Path, native_extension: None) -> None:
    pytest.importorskip("marimo")
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, str(NOTEBOOK), "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    run = compfast.load(out)
    assert len(run.members) == 4
    assert (out / "mechanism.png").stat().st_size > 10_000
