"""HTML pages: every one fills the frame `templates/page.html`, which holds head and style."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def fill(template: str, values: Mapping[str, Any], filters: Mapping[str, Callable[..., str]] | None = None) -> str:
    """A page as text; what comes from data is escaped.

    Args:
        template: file name in `pipeline/reports/templates/`.
        values: name -> value; a name that the template uses must be there.
        filters: name -> function of a value.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mixrank.pipeline.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters.update(filters or {})
    return environment.get_template(template).render(values)
