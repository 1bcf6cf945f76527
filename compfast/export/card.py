"""What a member is, as plain data, and as the page (README.md) that goes along with its weights."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from compfast.config import SECTIONS, SEEDS
from compfast.config.labels import brief
from compfast.config.settings import to_dict
from compfast.models.params import parameter_count
from compfast.runs.reading import Run
from compfast.solutions import wilson

FORMAT, VERSION = "compfast-member", 1

_SPEC = ("task", "model", "init", "optimizer", "training", "evaluation")
_THRESHOLDS = ("fitted", "share", "lead", "mixed")
_TEMPLATE = """\
---
library_name: compfast
tags:
- compfast
- {{ facts.spec.task.name | json }}
- {{ (facts.verdict or "no verdict") | json }}
---
# Member {{ facts.member }} of a compfast run

{% if facts.verdict -%}
Verdict at step {{ facts.step }}: **{{ facts.verdict }}**.
{%- else -%}
Step {{ facts.step }}, at which there was no exam, so that there is no verdict.
{%- endif %}
One of {{ members }} members that were trained side by side on the task
`{{ facts.spec.task.name }}`; a {{ facts.spec.model.family }} of {{ parameters }} parameters.

```python
import compfast
model = compfast.from_pretrained("this folder")  # a plain torch.nn.Module, in evaluation mode
```
{% if scores %}
## The numbers behind the verdict

| number | value |
|---|---|
{% for name, value in scores.items() -%}
| {{ name | cell }} | {{ value | cell }} |
{% endfor %}
A member below {{ spec.evaluation.fitted }} of `seen` is underfit. Else a candidate solution gives
the label that reaches {{ spec.evaluation.share }} and leads every other answer by
{{ spec.evaluation.lead }}; else it is mixed where the candidates together reach
{{ spec.evaluation.mixed }}, else other.
{% endif %}
## Settings
{% for section, fields in sections.items() %}
### {{ section }}

| field | value |
|---|---|
{% for name, value in fields.items() -%}
| {{ name | cell }} | {{ value | cell }} |
{% endfor -%}
{% endfor %}
## Provenance

| | |
|---|---|
{% for name, value in provenance.items() -%}
| {{ name | cell }} | {{ value | cell }} |
{% endfor %}"""

_RUN_TEMPLATE = """\
---
library_name: compfast
tags:
- compfast
- {{ task | json }}
---
# {{ total }} members trained side by side on `{{ task }}`, step {{ step }}

| verdict at step {{ newest }} | members | share | 95 % Wilson |
|---|---|---|---|
{% for row in rows -%}
| {{ row | map("cell") | join(" | ") }} |
{% endfor %}
What differs between members:
{% for path, values in axes.items() %}
- `{{ path }}`: {{ values | length }} values, {{ values[0] | cell }} to {{ values[-1] | cell }}
{%- endfor %}

`group-GGG/params.safetensors` holds the weights of the members of one shape, tensors `[M, ...]`,
in the order of `row` in members.parquet. Each step that was kept is a revision, `step-{{ step }}`
is this one. Folders `member-N` are read by `compfast.from_pretrained`.

| | |
|---|---|
{% for name, value in own.items() -%}
| {{ name | cell }} | {{ value | cell }} |
{% endfor %}"""


def facts(run: Run, member: int, step: int | None) -> dict[str, Any]:
    """A member's whole description as JSON can hold it: its spec, its verdict, where it is from."""
    spec = run.spec(member)
    fields = {name: dataclasses.asdict(getattr(spec, name)) for name in _SPEC}
    at, scores = _exam(run, member, step)
    kept = ("engine", "isa", "versions", "commit", "created")
    return {
        "format": FORMAT,
        "version": VERSION,
        "member": member,
        "step": at,
        "verdict": scores.pop("verdict", None),
        "scores": scores,
        "spec": {**{name: getattr(spec, name) for name in SEEDS}, **fields},
        "run": {name: run.info.get(name) for name in kept},
    }


def card(run: Run, described: Mapping[str, Any]) -> str:
    """The page of a member that `facts` describes."""
    spec, own = described["spec"], described["run"]
    return _filled(
        _TEMPLATE,
        facts=described,
        spec=spec,
        members=len(run.members),
        parameters=parameter_count(run.spec(described["member"]).model),
        scores=described["scores"],
        sections={"seeds": {name: spec[name] for name in SEEDS}}
        | {name: spec[name] for name in SECTIONS if name in spec},
        provenance={**{k: v for k, v in own.items() if k != "versions"}, **own["versions"]},
    )


def run_card(run: Run, step: int) -> str:
    """The page of a whole run, or a view of one, at a step."""
    total = len(run.members)
    counts = run.members["verdict"].drop_nulls().value_counts(sort=True)
    rows = []
    for verdict, count in counts.iter_rows():
        low, high = wilson(count, total)
        rows.append((verdict, count, f"{count / total:.1%}", f"{low:.1%} to {high:.1%}"))
    config = to_dict(run.config)
    return _filled(
        _RUN_TEMPLATE,
        step=step,
        newest=run.step,
        task=run.config.task.name,
        total=total,
        rows=rows,
        axes={**config.get("sweep", {}), **config.get("sample", {})},
        own={k: run.info.get(k) for k in ("engine", "isa", "commit", "created")},
    )


def _filled(template: str, **values: Any) -> str:
    import jinja2  # slow to import

    environment = jinja2.Environment(
        autoescape=False,  # the page is Markdown: `cell` and `json` do what it needs
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": _cell, "json": json.dumps}
    text: str = environment.from_string(template).render(**values)
    return text


def _exam(run: Run, member: int, step: int | None) -> tuple[int, dict[str, Any]]:
    """A member's step, and its verdict and scores there; nothing where there was no exam."""
    newest = run.members.row(by_predicate=pl.col("member") == member, named=True)
    names = run.members.columns
    scores = ["verdict", *names[names.index("verdict") + 1 : names.index("steps")]]
    if step is None:
        return newest["steps"] or 0, _told(newest, scores)
    rows = run.metrics.filter(
        pl.col("member") == member, pl.col("step") == step, pl.col("verdict").is_not_null()
    )
    found = rows.row(-1, named=True) if rows.height else {}
    return step, _told(found, [name for name in scores if name in found])


def _told(row: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """Nothing without a verdict; a score that is not finite as None."""
    if not row or row["verdict"] is None:
        return {}
    odd = {name for name in names if isinstance(row[name], float) and not math.isfinite(row[name])}
    return {name: None if name in odd else row[name] for name in names}


def _cell(value: Any) -> str:
    """A value inside a Markdown table."""
    text = f"{value:.4g}" if isinstance(value, float) else brief(value)
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())
