"""The two pages of a service: one to try the model, one about the interface.

Each is complete in itself: it loads nothing from elsewhere.
"""

import json
from typing import Any

from bert_jax.html_templates import template
from bert_jax.serve.served import Served

_FOLDER = "bert_jax.serve"


def try_page(model: Served) -> str:
    """The page with a form for a text and a picture of what the model says of it."""
    return template(_FOLDER, "try.html.jinja").render(model=model)


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
    return template(_FOLDER, "docs.html.jinja").render(
        model=model, description=description, schemas=shown, example=example
    )
