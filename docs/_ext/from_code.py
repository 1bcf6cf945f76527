"""Tables of the manual that are made from the code, so that nothing is typed twice.

```{settings} compfast.tasks.anchor:AnchorConfig``` fields, defaults and comments of a section
```{presets} anchor```                               named settings of a task, and its variants
```{results} ../../experiments/scan/jump.csv```      rows of a study's table
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from fields import described, loaded
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from compfast.config.plugins import task_class


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown; cells may hold any text."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


class Settings(SphinxDirective):
    """A row a field of a section: name, default, and the comment beside it."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        section = loaded(self.arguments[0])
        rows = [
            [f"`{section.section}.{field.name}`", f"`{field.default}`", field.meaning]
            for field in described(section)
        ]
        return self.parse_text_to_nodes(table(["setting", "default", "meaning"], rows))


class Presets(SphinxDirective):
    """A row a preset or variant of a task: how to ask for it, and what it sets."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        task = task_class(self.arguments[0])
        rows = [
            [f"`--preset {name}`", written(given) or "the defaults"]
            for name, given in task.presets.items()
        ]
        rows += [
            [f"`--variant {name}`", written({"task": given})]
            for name, given in task.variants.items()
        ]
        if not rows:
            return self.parse_text_to_nodes("It has no presets and no variants.")
        return self.parse_text_to_nodes(table(["flag", "sets"], rows))


def written(given: Any) -> str:
    """`section.field=value` of every setting."""
    said = [
        f"`{section}.{field}={plain(value)}`"
        for section, fields in given.items()
        for field, value in fields.items()
    ]
    return ", ".join(said)


def plain(value: Any) -> str:
    """As a user would write it."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(plain, value)) + "]"
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


class Results(SphinxDirective):
    """Rows of a CSV file of experiments/: those and those columns that are asked for."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {
        "columns": directives.unchanged_required,  # name, or name=title; ...
        "where": directives.unchanged,  # column=value; ...
    }

    def run(self) -> list[nodes.Node]:
        path = (Path(self.env.doc2path(self.env.docname)).parent / self.arguments[0]).resolve()
        self.env.note_dependency(str(path))
        columns = [each.partition("=")[::2] for each in self._listed("columns")]
        wanted = dict(each.split("=", 1) for each in self._listed("where"))
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                [row[name.strip()] for name, _ in columns]
                for row in csv.DictReader(file)
                if all(row[name] == value for name, value in wanted.items())
            ]
        if not rows:
            raise self.error(f"{path} has no row with {wanted}")
        return self.parse_text_to_nodes(table([title or name for name, title in columns], rows))

    def _listed(self, option: str) -> list[str]:
        return [part.strip() for part in self.options.get(option, "").split(";") if part.strip()]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("settings", Settings)
    app.add_directive("presets", Presets)
    app.add_directive("results", Results)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
