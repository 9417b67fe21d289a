"""The two pages of a service: one to try the model, one about the interface.

Each is complete in itself: it loads nothing from elsewhere.
"""

import json
from typing import Any

import jinja2

from bert_jax.serve.served import Served


def try_page(model: Served) -> str:
    """The page with a form for a text and a picture of what the model says of it."""
    return _environment().get_template("try.html.jinja").render(model=model)


def docs_page(model: Served, description: dict[str, Any]) -> str:
    """The OpenAPI document for readers.

    Args:
        description: what `openapi.describe` made.
    """
    shown = json.dumps(description["components"]["schemas"], indent=2)
    example = json.dumps(
        description["components"]["schemas"]["Request"]["examples"][0],
        ensure_ascii=False,
    )
    template = _environment().get_template("docs.html.jinja")
    return template.render(
        model=model, description=description, schemas=shown, example=example
    )


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("bert_jax.serve", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
