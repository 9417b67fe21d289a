"""`bert-jax serve`: requests are answered together, and what is too much is told."""

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse

import pytest
from exchange_models import make_tokenizer
from random_runs import random_run

from bert_jax.serve.limits import Limits

uvicorn = pytest.importorskip("uvicorn", reason="install .[serve]")
pytest.importorskip("starlette", reason="install .[serve]")

from bert_jax.serve.app import make_app  # noqa: E402
from bert_jax.serve.batching import Batcher, QueueFullError  # noqa: E402
from bert_jax.serve.openapi import describe  # noqa: E402
from bert_jax.serve.served import Served, load_served  # noqa: E402
from bert_jax.serve.server import serve  # noqa: E402


def stub(compute, names=("Text",), **more):
    """A model without weights."""

    def check(text, where):
        if not all(part.strip() for part in text):
            raise ValueError(f"{where} is empty.")

    fields = {"task": "stub", "outputs": (), "mask": None, "about": {}}
    fields |= {"fewest_texts": len(names), **more}
    return Served(
        name="<b>stub</b>", text_names=names, check=check, compute=compute, **fields
    )


def lengths(texts):
    return [{"score": float(len("".join(text)))} for text in texts]


@contextlib.contextmanager
def running(model, limits=None):
    """The port of a server in this process."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(make_app(model, limits or Limits()), log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def ask(port, method="POST", path="/predict", body=None, kind="application/json"):
    """(status, JSON or text, headers)"""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": kind})
        answer = connection.getresponse()
        text = answer.read().decode()
        is_json = answer.headers["Content-Type"] == "application/json"
        return answer.status, json.loads(text) if is_json else text, answer.headers


# Requests that are computed together.


def test_requests_are_computed_together_and_get_their_own_answers():
    batches = []

    def compute(texts):
        batches.append(len(texts))
        return lengths(texts)

    async def all_at_once():
        batcher = Batcher(compute, Limits(batch_size=8, wait_ms=20))
        worker = asyncio.create_task(batcher.run())
        asked = [[("x" * n,)] * (1 + n % 3) for n in range(1, 10)]
        found = await asyncio.gather(*map(batcher, asked))
        worker.cancel()
        batcher.close()
        return asked, found

    asked, found = asyncio.run(all_at_once())
    assert found == [lengths(texts) for texts in asked]
    assert sum(batches) == sum(map(len, asked))
    assert max(batches) <= 8
    assert len(batches) <= 4


def test_one_bad_request_does_not_spoil_the_others():
    def compute(texts):
        if ("bad",) in texts:
            raise ArithmeticError("bad")
        return lengths(texts)

    async def three():
        batcher = Batcher(compute, Limits(wait_ms=20))
        worker = asyncio.create_task(batcher.run())
        asked = map(batcher, ([("a",)], [("bad",)], [("abc",)]))
        found = await asyncio.gather(*asked, return_exceptions=True)
        worker.cancel()
        batcher.close()
        return found

    first, bad, last = asyncio.run(three())
    assert (first, last) == ([{"score": 1.0}], [{"score": 3.0}])
    assert isinstance(bad, ArithmeticError)


def test_a_full_queue_refuses_and_a_late_answer_is_given_up():
    free = threading.Event()
    computed = []

    def compute(texts):
        free.wait()
        computed.extend(texts)
        return lengths(texts)

    async def too_many():
        limits = Limits(
            batch_size=1, wait_ms=0, queue_size=2, max_texts=2, timeout_secs=0.2
        )
        batcher = Batcher(compute, limits)
        worker = asyncio.create_task(batcher.run())
        running = asyncio.create_task(batcher([("first",)]))
        await asyncio.sleep(0.05)  # it is being computed
        waiting = [asyncio.create_task(batcher([(x,)])) for x in ("second", "third")]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match="2 texts wait"):
            await batcher([("fourth",)])
        results = await asyncio.gather(running, *waiting, return_exceptions=True)
        assert batcher.num_waiting == 0  # so that a new request finds room
        free.set()
        await asyncio.sleep(0.1)
        worker.cancel()
        batcher.close()
        return results

    results = asyncio.run(too_many())
    assert [type(x) for x in results] == [TimeoutError] * 3
    # Nobody waited for the others any more.
    assert computed == [("first",)]


# The interface.


@pytest.fixture(scope="module")
def port():
    limits = Limits(max_texts=3, max_characters=20, max_body_kib=1, queue_size=3)
    with running(stub(lengths), limits) as port:
        yield port


def test_texts_are_answered_in_their_order(port):
    status, found, _ = ask(port, body={"texts": ["aaa", "é"]})
    assert (status, found) == (200, {"predictions": [{"score": 3.0}, {"score": 1.0}]})
    assert ask(port, body={"text": "aa"})[1] == {"predictions": [{"score": 2.0}]}
    assert ask(port, "GET", "/health")[1] == {"status": "ok", "waiting_texts": 0}
    assert ask(port, "GET", "/model")[1]["texts"] == ["Text"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "The body is not JSON"),
        (b"[" * 900, 400, "The body"),
        (b'{"text": "a", "text": "b"}', 400, "an object names 'text' twice"),
        (b'{"text": "\xff"}', 400, "The body is not JSON"),
        ({"txt": "a"}, 400, 'such as {"texts": ["text"]}'),
        ({"text": "a", "texts": ["a"]}, 400, "and nothing else"),
        ({"texts": []}, 400, "at least one text"),
        ({"texts": "a"}, 400, "must be a list"),
        ({"texts": ["a", 1]}, 400, "texts[1] must be a string"),
        ({"text": ["a", "b"]}, 400, "text must be a string"),
        ({"text": " "}, 400, "text is empty"),
        (b'{"text": "\\ud800"}', 400, "half of a character"),
        ({"texts": ["a"] * 4}, 413, "holds 4 texts; one request may have at most 3"),
        ({"text": "a" * 21}, 413, "text has 21 characters"),
        (b" " * 1_025, 413, "more than 1 KiB"),
        (b" " * 20_000_000, 413, "more than 1 KiB"),
    ],
)
def test_what_cannot_be_answered_is_told(port, body, status, message):
    found, error, _ = ask(port, body=body)
    assert (found, error["error"]["status"]) == (status, status)
    assert message in error["error"]["message"]


def test_wrong_addresses_methods_and_types_are_told(port):
    assert ask(port, "GET", "/nothing")[1]["error"]["status"] == 404
    status, found, headers = ask(port, "GET")
    assert (status, headers["Allow"]) == (405, "POST")
    assert "does not take GET" in found["error"]["message"]
    status, found, _ = ask(port, body={"text": "a"}, kind="text/plain")
    assert (status, found["error"]["status"]) == (415, 415)


def test_a_client_that_goes_away_harms_nobody(port):
    for sent in (b"nonsense\r\n\r\n", b"POST /predict HTTP/1.1\r\nHost: x\r\n"):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(sent)
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head + b'Content-Length: 100\r\n\r\n{"te')
    assert ask(port, body={"text": "aa"})[0] == 200


def test_what_a_gone_client_asked_for_waits_no_longer():
    begun, free = threading.Event(), threading.Event()
    computed = []

    def compute(texts):
        begun.set()
        free.wait()
        computed.extend(texts)
        return lengths(texts)

    def until(port, waiting):
        end = time.monotonic() + 10
        while ask(port, "GET", "/health")[1]["waiting_texts"] != waiting:
            assert time.monotonic() < end
            time.sleep(0.01)

    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with running(stub(compute), Limits(batch_size=1, wait_ms=0)) as port:
        try:
            asking = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
            for number, client in enumerate(asking):
                client.sendall(
                    head + b'Content-Length: 12\r\n\r\n{"text":"%d"}' % number
                )
                assert begun.wait(10)
                until(port, number)  # the first one is being computed
            asking[1].close()
            until(port, 1)
        finally:
            free.set()
        assert b"200 OK" in asking[2].recv(100)
        for client in asking:
            client.close()
    assert computed == [("0",), ("2",)]


def test_failures_have_statuses():
    free = threading.Event()

    def compute(texts):
        if texts[0] == ("fail",):
            raise ArithmeticError("a secret")
        free.wait()
        return lengths(texts)

    limits = Limits(queue_size=1, max_texts=1, batch_size=1, timeout_secs=0.3)
    with running(stub(compute), limits) as port:
        status, found, _ = ask(port, body={"text": "fail"})
        assert (status, "secret" in str(found)) == (500, False)
        statuses = []

        def send():
            answer = ask(port, body={"text": "slow"})
            statuses.append((answer[0], answer[2]["Retry-After"]))

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        free.set()
    assert set(statuses) == {(503, "1"), (504, None)}


def test_the_interface_is_described(port):
    status, found, _ = ask(port, "GET", "/openapi.json")
    assert status == 200
    assert set(found["paths"]) == {"/predict", "/model", "/health"}
    post = found["paths"]["/predict"]["post"]
    assert {"200", "400", "413", "503", "504"} <= set(post["responses"])
    pair = describe(stub(lengths, ("Question", "Passage")), Limits())
    request = pair["components"]["schemas"]["Request"]
    assert request["examples"] == [{"texts": [["text", "text"]]}]
    page = ask(port, "GET", "/docs")[1]
    assert "/predict" in page
    assert "Too many texts wait" in page


def test_pages_load_nothing_and_escape_names(port):
    for path in ("/", "/docs"):
        status, page, _ = ask(port, "GET", path)
        assert status == 200
        assert "<b>stub</b>" not in page
        for outside in ("http:", "https:", "src=", "@import", "url("):
            assert outside not in page
    assert '<label for="text0">Text</label>' in ask(port, "GET", "/")[1]


def test_limits_are_checked(tmp_path, refused):
    with pytest.raises(ValueError, match="max_texts=9 is more than queue_size=8"):
        Limits(max_texts=9, queue_size=8)
    for wait in (2_000.0, float("inf")):
        with pytest.raises(ValueError, match=r"wait_ms=.* timeout_secs=2.*too late"):
            Limits(wait_ms=wait, timeout_secs=2.0)
    assert "--port 70000 is not in [0, 65535]" in refused(
        "serve", tmp_path, "--port", "70000"
    )
    assert "is not a run directory" in refused("serve", tmp_path)


@pytest.mark.parametrize("host", ["a..b", "no such host"])
def test_an_address_that_cannot_be_is_told(host):
    with pytest.raises(ValueError, match=f"--host {host} --port 0: the service cannot"):
        serve(stub(lengths), Limits(), host, 0)


def test_a_server_that_does_not_start_is_told(monkeypatch, capsys):
    monkeypatch.setattr(Batcher, "run", None)
    # uvicorn leaves its thread by SystemExit, which pytest would count as a failure.
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    with pytest.raises(OSError, match="ended by itself"):
        serve(stub(lengths), Limits(), "127.0.0.1", 0)
    assert "answers at" not in capsys.readouterr().out


def test_a_missing_extra_is_told(tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "starlette", None)
    said = refused("serve", tmp_path)
    assert (
        "need starlette, which is not installed: pip install 'bert_jax[serve]'" in said
    )


# Runs.


@pytest.mark.parametrize(
    ("task", "texts", "fields"),
    [
        ("classification", [("a b",), ("c",)], {"label", "probabilities"}),
        (None, [("a [MASK] c",)], {"filled", "masks"}),
        pytest.param("regression", [("a b",)], {"score"}, marks=pytest.mark.slow),
        pytest.param("tokens", [("a b",)], {"entities"}, marks=pytest.mark.slow),
        pytest.param("spans", [("a", "b c")], {"answer"}, marks=pytest.mark.slow),
    ],
)
def test_every_task_is_served(tmp_path, task, texts, fields):
    run = random_run(tmp_path / "run", make_tokenizer("wordpiece"), task)
    model = load_served(run, batch_size=4)
    assert len(model.text_names) == len(texts[0])
    with running(model) as port:
        given = [x[0] if len(x) == 1 else list(x) for x in texts]
        status, found, _ = ask(port, body={"texts": given})
        assert status == 200
        assert [fields <= set(x) for x in found["predictions"]] == [True] * len(texts)
        assert found["predictions"] == model.compute(texts)
        status, found, _ = ask(port, body={"text": [""] * 3})
        assert status == 400
        assert ask(port, "GET", "/")[1].count("<textarea") == len(texts[0])


def test_examples_may_have_fewer_choices_than_those_of_training(tmp_path):
    run = random_run(tmp_path / "run", make_tokenizer("wordpiece"), "choice")
    model = load_served(run, batch_size=4)
    with running(model) as port:
        texts = [("a b", "c", "d"), ("a", "b", "c", "d")]
        status, found, _ = ask(port, body={"texts": list(map(list, texts))})
        assert (status, found["predictions"]) == (200, model.compute(texts))
        assert [len(x["probabilities"]) for x in found["predictions"]] == [2, 3]
        for wrong in (["a", "b"], ["a", "b", "c", "d", "e"], "a"):
            status, error, _ = ask(port, body={"text": wrong})
            assert status == 400
            assert "must be a list of 3 to 4 strings" in error["error"]["message"]
        assert ask(port, "GET", "/")[1].count(" required>") == 3
    schema = describe(model, Limits())["components"]["schemas"]["Request"]
    text = schema["oneOf"][1]["properties"]["text"]
    assert (text["minItems"], text["maxItems"]) == (3, 4)


@pytest.mark.slow
def test_a_signal_ends_it_after_the_answers_that_run(tmp_path):
    run = random_run(tmp_path / "run", make_tokenizer("wordpiece"), "classification")
    command = [sys.executable, "-m", "bert_jax", "serve", str(run), "--port", "0"]
    # The window is long, so that the request runs when the signal comes.
    server = subprocess.Popen(
        [*command, "--wait-ms", "4000"],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        port = int(server.stdout.readline().strip().rsplit(":", 1)[1])
        answers = []
        asking = threading.Thread(
            target=lambda: answers.append(ask(port, body={"text": "a b"}))
        )
        asking.start()
        while ask(port, "GET", "/health")[1]["waiting_texts"] == 0:
            assert asking.is_alive()
            time.sleep(0.05)
        server.send_signal(signal.SIGTERM)
        asking.join()
        assert answers[0][0] == 200
        assert server.wait(30) == 130
        assert "Traceback" not in server.stderr.read()
    finally:
        server.kill()
        server.communicate()


# The page in a browser.

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SAID = {
    "label": {"label": "good", "probabilities": {"bad": 0.25, "good": 0.75}},
    "score": {"score": 2.5},
    "similarity": {"similarity": -0.5},
    "entities": {
        "words": ["Ann", "in", "Rome"],
        "tags": ["B-PER", "O", "B-LOC"],
        "entities": [{"type": "PER", "text": "Ann"}, {"type": "LOC", "text": "Rome"}],
    },
    "offsets": {"entities": [{"type": "LOC", "text": "Rome", "start": 8, "end": 12}]},
    "answer": {"answer": "Rome", "score": 3.0, "no_answer_score": 1.0},
    "masks": {
        "filled": "Ann in Rome",
        "masks": [[{"piece": "Rome", "text": "Rome", "probability": 0.5}]],
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("label", ['<p class="big">good</p>', "75.0%", "width: 25%"]),
        ("score", ['<p class="big">2.500</p>']),
        ("similarity", ['<p class="big">-0.500</p>']),
        (
            "entities",
            [">Ann<small>PER</small></mark> in <mark", ">Rome<small>LOC</small>"],
        ),
        ("offsets", ["😀 Ann ; <mark", ">Rome<small>LOC</small></mark> ."]),
        ("answer", ["<mark>Rome</mark>", "Score 3.00; that there is no answer: 1.00."]),
        ("masks", ["Ann in Rome", "50.0%"]),
    ],
)
def test_the_page_draws_each_answer(tmp_path, kind, shown):
    if CHROMIUM is None:
        pytest.skip("no Chromium is here to look at the page with")
    text = "😀 Ann ; Rome ." if kind == "offsets" else "Ann in Rome"
    with running(stub(lambda texts: [SAID[kind]] * len(texts))) as port:
        link = f"http://127.0.0.1:{port}/#{urllib.parse.urlencode({'text': text})}"
        dom = subprocess.run(
            [
                *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"),
                *(f"--user-data-dir={tmp_path}", "--virtual-time-budget=10000"),
                *("--dump-dom", link),
            ],
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout
    _, _, result = dom.partition('<section id="result"')
    for part in shown:
        assert part in result
