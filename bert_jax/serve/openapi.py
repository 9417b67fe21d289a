"""The description of the HTTP interface in the form of OpenAPI 3.1."""

from typing import Any

import bert_jax
from bert_jax.serve.limits import Limits
from bert_jax.serve.served import Served

_STATUSES = {
    400: "The body is not JSON, has another form, or holds a text that the model cannot take.",
    408: "The body did not arrive in time.",
    413: "The body, the number of texts or a text is too large.",
    415: "Content-Type is not application/json.",
    500: "The service failed.",
    503: "Too many texts wait. The header Retry-After says when to try again.",
    504: "The answer took too long.",
}


def describe(model: Served, limits: Limits) -> dict[str, Any]:
    """The OpenAPI document of a service."""
    string = {"type": "string", "maxLength": limits.max_characters}
    text: dict[str, Any] = string
    if len(model.text_names) > 1:
        text = {
            "type": "array",
            "items": string,
            "minItems": model.fewest_texts,
            "maxItems": len(model.text_names),
            "description": " and ".join(model.text_names),
        }
    example: Any = list(model.example) if len(model.example) > 1 else model.example[0]
    request = {
        "oneOf": [
            _object(texts={"type": "array", "items": text, "minItems": 1}),
            _object(text=text),
        ],
        "examples": [{"texts": [example]}],
    }
    request["oneOf"][0]["properties"]["texts"]["maxItems"] = limits.max_texts
    error = _object(
        error=_object(status={"type": "integer"}, message={"type": "string"})
    )
    predictions = _object(
        predictions={
            "type": "array",
            "items": {"type": "object"},
            "description": "One for each text, in order, as `bert-jax predict` writes it.",
        }
    )
    refused = {
        str(status): {
            "description": said,
            **_json({"$ref": "#/components/schemas/Error"}),
        }
        for status, said in _STATUSES.items()
    }
    anything = {"type": "object"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"bert-jax serve: {model.name}",
            "version": bert_jax.__version__,
            "description": f"A model for the task {model.task}.",
        },
        "paths": {
            "/predict": {
                "post": {
                    "operationId": "predict",
                    "summary": "Predicts on one or more texts.",
                    "requestBody": {
                        "required": True,
                        **_json({"$ref": "#/components/schemas/Request"}),
                    },
                    "responses": {
                        "200": {
                            "description": "The predictions.",
                            **_json({"$ref": "#/components/schemas/Predictions"}),
                        },
                        **refused,
                    },
                }
            },
            "/model": _get(
                "model", "Says which model answers, and its sizes.", anything
            ),
            "/health": _get(
                "health",
                "Says that the service runs, and how many texts wait.",
                _object(
                    status={"const": "ok"},
                    waiting_texts={"type": "integer", "minimum": 0},
                ),
            ),
        },
        "components": {
            "schemas": {
                "Request": request,
                "Predictions": predictions,
                "Error": error,
            }
        },
    }


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _get(name: str, summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    answer = {"description": "The answer.", **_json(schema)}
    return {
        "get": {"operationId": name, "summary": summary, "responses": {"200": answer}}
    }
