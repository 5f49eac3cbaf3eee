"""HTML pages and the plots in them: every page fills the frame `templates/page.html`, every plot wears one style."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from mixrank.schemas.safe_text import safe, safe_values

RUN_COLOURS = ("#2f6db3", "#d9772b", "#3f9a6b", "#8a5fb5", "#c4455a", "#7a6a4f")
BASELINE_COLOUR = "#9aa3ad"
# How much a plot may shrink.
READABLE = 0.75
INK, MUTED, GRID = "#27313b", "#66727e", "#e4e8ec"


def fill(template: str, values: Mapping[str, Any], filters: Mapping[str, Callable[..., str]] | None = None) -> str:
    """A page as text; what comes from data is escaped, and secrets in it are masked.

    Args:
        template: file name in `pipeline/reports/templates/`.
        values: name -> value; a name that the template uses must be there.
        filters: name -> function of a value.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mixrank.pipeline.reports"),
        autoescape=True,
        finalize=_clean,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters.update(filters or {})
    return environment.get_template(template).render(values)


def _clean(value: Any) -> Any:
    """What the template writes: its own markup as it is, text from elsewhere safe to show."""
    return safe(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def svg(chart: Any, title: str) -> Markup:
    """A chart in the report's style, as an image inside the page.

    Args:
        chart: an altair chart.
        title: what it shows, for those who cannot see it.
    """
    import vl_convert

    font = "Helvetica Neue, Helvetica, Arial, DejaVu Sans, sans-serif"
    text = {
        "labelColor": MUTED,
        "titleColor": MUTED,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
    }
    chart = chart.configure(background="transparent", font=font, padding=4).configure_view(stroke=GRID)
    chart = chart.configure_axis(**text, gridColor=GRID, domainColor=GRID, tickColor=GRID, labelLimit=160)
    chart = chart.configure_header(labelColor=INK, labelFontSize=12, labelFontWeight="bold")
    chart = chart.configure_legend(labelColor=INK, labelFontSize=11, titleColor=MUTED, orient="top")
    # A control character in a text would abort the process inside vl-convert.
    drawn = vl_convert.vegalite_to_svg(safe_values(chart.to_dict()))
    # As an image: identifiers inside several SVGs of one page would clash.
    data = base64.b64encode(drawn.encode()).decode()
    # In a narrow window a wide plot is scrolled where it could no longer be read.
    width = re.search(r'<svg[^>]*\swidth="([\d.]+)"', drawn)
    least = round(READABLE * float(width[1])) if width else 0
    image = '<img class="plot" alt="{}" src="data:image/svg+xml;base64,{}" style="min-width: {}px">'
    return Markup(f'<div class="scroll">{image}</div>').format(title, data, least)


def altair() -> Any:
    """The altair module, ready for data of any size."""
    import altair

    altair.data_transformers.disable_max_rows()
    return altair
