"""The Python examples of the manual, by what stands in them: others may come before or after."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def example(page: str, holding: str) -> str:
    """The one Python block of a page of docs/ that holds this text."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    (found,) = (block for block in blocks if holding in block)
    return str(found)
