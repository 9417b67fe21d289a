"""The HTTP interface of a service: its addresses, what they check, and their errors.

Every error is JSON, `{"error": {"status": 413, "message": "..."}}`.
"""

import asyncio
import contextlib
import json
import sys
import traceback
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

import bert_jax
from bert_jax.data.json_text import each_once, loads
from bert_jax.data.labelled.examples import Text
from bert_jax.serve.batching import Batcher, QueueFullError
from bert_jax.serve.limits import Limits
from bert_jax.serve.openapi import describe
from bert_jax.serve.pages import docs_page, try_page
from bert_jax.serve.served import Served

_RETRY = {"Retry-After": "1"}


def make_app(model: Served, limits: Limits) -> Starlette:
    """The application that answers for one model."""
    batcher = Batcher(model.compute, limits)
    description = describe(model, limits)
    pages = {"/": try_page(model), "/docs": docs_page(model, description)}

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.run())
        yield
        worker.cancel()
        batcher.close()

    async def page(request: Request) -> Response:
        return HTMLResponse(pages[request.url.path])

    async def openapi(request: Request) -> Response:
        return JSONResponse(description)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "waiting_texts": batcher.num_waiting})

    async def about(request: Request) -> Response:
        return JSONResponse(
            {
                "name": model.name,
                "task": model.task,
                "texts": list(model.text_names),
                "outputs": list(model.outputs),
                "mask": model.mask,
                **model.about,
                "version": bert_jax.__version__,
            }
        )

    async def predict(request: Request) -> Response:
        texts = _texts(await _body(request, limits), model, limits)
        try:
            found = await _unless_gone(request, batcher(texts))
        except QueueFullError as error:
            raise HTTPException(503, str(error), _RETRY) from None
        except TimeoutError:
            raise HTTPException(
                504,
                f"The answer took longer than {limits.timeout_secs:g} seconds; send "
                "fewer or shorter texts, or try again later.",
            ) from None
        return JSONResponse({"predictions": found})

    routes = [
        Route("/", page),
        Route("/docs", page),
        Route("/openapi.json", openapi),
        Route("/health", health),
        Route("/model", about),
        Route("/predict", predict, methods=["POST"]),
    ]
    handlers: Any = {HTTPException: _refuse, Exception: _fail}
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """What the work gives, or `None` where the client goes away before, which ends it.

    Otherwise those who give up and ask again would fill the queue with what nobody reads.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()


async def _refuse(request: Request, error: HTTPException) -> Response:
    message = error.detail
    if error.status_code == 404:
        message = f"There is no {request.url.path}; /docs lists what there is."
    elif error.status_code == 405:
        message = f"{request.url.path} does not take {request.method}; see /docs."
    return _error(error.status_code, message, error.headers)


async def _fail(request: Request, error: Exception) -> Response:
    traceback.print_exception(error, file=sys.stderr)
    return _error(500, "The service failed; its log says why.")


def _error(status: int, message: str, headers: Any = None) -> Response:
    return JSONResponse(
        {"error": {"status": status, "message": message}}, status, headers
    )


async def _body(request: Request, limits: Limits) -> bytes:
    """The body of a request.

    Raises:
        HTTPException: it is no JSON by its type, too large or too slow.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # This also keeps pages of other sites from sending forms.
        raise HTTPException(
            415,
            f"Content-Type is {kind!r}; expected application/json.",
        )
    most = 1_024 * limits.max_body_kib
    body = bytearray()

    async def read() -> None:
        # To its end: a client that still sends would see a reset and no answer.
        async for chunk in request.stream():
            if len(body) <= most:
                body.extend(chunk)

    late = False
    try:
        await asyncio.wait_for(read(), limits.timeout_secs)
    except TimeoutError:
        late = True
    except ClientDisconnect:
        raise HTTPException(400, "The body ended too early.") from None
    if len(body) > most:
        raise HTTPException(
            413,
            f"The body has more than {limits.max_body_kib} KiB; send fewer or shorter "
            "texts.",
            {"Connection": "close"},
        )
    if late:
        raise HTTPException(
            408, f"The body did not arrive within {limits.timeout_secs:g} seconds."
        )
    return bytes(body)


def _texts(body: bytes, model: Served, limits: Limits) -> list[Text]:
    """The texts of a request, which the model can take.

    Raises:
        HTTPException: the body has another form, or a text is empty, too long or not
            what the model takes.
    """
    try:
        given = loads(body, object_pairs_hook=each_once)
    except ValueError as error:
        raise HTTPException(400, f"The body is not JSON ({error}).") from None
    example = json.dumps({"texts": [_json_of(model.example)]}, ensure_ascii=False)
    if not isinstance(given, dict) or set(given) not in ({"text"}, {"texts"}):
        raise HTTPException(
            400,
            'The body must be an object with "text" or "texts" and nothing else, such as '
            f"{example}.",
        )
    several = "texts" in given
    values = given["texts"] if several else [given["text"]]
    if not isinstance(values, list) or not values:
        raise HTTPException(
            400, f'"texts" must be a list with at least one text, such as {example}.'
        )
    if len(values) > limits.max_texts:
        raise HTTPException(
            413,
            f'"texts" holds {len(values)} texts; one request may have at most '
            f"{limits.max_texts}. Send them in several requests.",
        )
    found = []
    for number, value in enumerate(values):
        where = f"texts[{number}]" if several else "text"
        text = (value,) if isinstance(value, str) else value
        is_text = isinstance(text, list | tuple) and all(
            isinstance(part, str) for part in text
        )
        fewest, most = model.fewest_texts, len(model.text_names)
        if not is_text or not fewest <= len(text) <= most:
            expected = " and ".join(f"a {name.lower()}" for name in model.text_names)
            numbers = str(most) if fewest == most else f"{fewest} to {most}"
            form = "a string" if most == 1 else f"a list of {numbers} strings"
            raise HTTPException(
                400, f"{where} must be {form} ({expected}), as in {example}."
            )
        num_characters = sum(map(len, text))
        if num_characters > limits.max_characters:
            raise HTTPException(
                413,
                f"{where} has {num_characters:,} characters; a text may have at most "
                f"{limits.max_characters:,}.",
            )
        found.append(_valid(tuple(text), where, model))
    return found


def _valid(text: Text, where: str, model: Served) -> Text:
    try:
        "".join(text).encode()
    except UnicodeEncodeError:
        raise HTTPException(
            400, f"{where} holds half of a character (a lone surrogate)."
        ) from None
    try:
        model.check(text, where)
    except ValueError as error:
        raise HTTPException(400, str(error)) from None
    return text


def _json_of(text: Text) -> Any:
    return text[0] if len(text) == 1 else list(text)
