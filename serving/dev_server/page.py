"""The status page: one HTML file without anything from elsewhere."""

from __future__ import annotations

from html import escape

from mixrank.serving.dev_server.loaded_model import Signature
from mixrank.serving.dev_server.prometheus import Metrics
from mixrank.serving.dev_server.repository import Repository
from mixrank.serving.dev_server.served import AVAILABLE

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #ddd; vertical-align: top }
.good { color: #06703b } .bad { color: #a11 } code { font-size: 13px }
details { margin: .3rem 0 }
"""


def status_page(repository: Repository, metrics: Metrics) -> str:
    """Models, versions and their states, labels, signatures, requests and latency, as HTML."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>mixrank development server</title>"
        f"<style>{_STYLE}</style><h1>mixrank development server</h1>"
        f"<p>For development, not for production. "
        f'<a href="/monitoring/prometheus/metrics">metrics</a></p>'
    ]
    labels = repository.labels
    for name, model in repository.served.items():
        tally = metrics.tallies[name]
        mean = f", {tally.microseconds / tally.requests / 1000:.1f} ms on average" if tally.requests else ""
        parts.append(
            f'<h2>{escape(name)}</h2><p><a href="/v1/models/{escape(name)}">state</a>, '
            f'<a href="/v1/models/{escape(name)}/metadata">metadata</a>; '
            f"requests: {tally.requests}, refused: {tally.refused}{mean}</p>"
            "<table><tr><th>version<th>state<th>labels<th></tr>"
        )
        for version, state in model.states.items():
            kind = "good" if state.name == AVAILABLE else "bad" if state.message else ""
            its = ", ".join(label for (owner, label), number in labels.items() if (owner, number) == (name, version))
            parts.append(
                f'<tr><td>{version}<td class="{kind}">{state.name}<td>{escape(its)}<td>{escape(state.message)}</tr>'
            )
        parts.append("</table>")
        loaded = model.available()
        if loaded:
            parts += [_signature(one) for _, one in sorted(loaded[max(loaded)].signatures.items())]
    return "\n".join(parts)


def _signature(signature: Signature) -> str:
    outputs = ", ".join(f"<code>{escape(name)}</code> {info}" for name, info in signature.outputs.items())
    rows = "".join(f"<tr><td><code>{escape(name)}</code><td>{info}</tr>" for name, info in signature.inputs.items())
    return (
        f"<details><summary><code>{escape(signature.name)}</code>: {len(signature.inputs)} inputs; {outputs}</summary>"
        f"<table><tr><th>input<th>type</tr>{rows}</table></details>"
    )
