"""Runs a service until a signal ends it."""

import socket
import sys
import threading

import uvicorn

from bert_jax.runtime.start import protect
from bert_jax.serve.app import make_app
from bert_jax.serve.limits import Limits
from bert_jax.serve.served import Served

_LOOK_SECS = 0.2


def serve(model: Served, limits: Limits, host: str, port: int) -> None:
    """Answers requests until it is interrupted; prints the address when it is ready.

    What runs at the interrupt is finished, and nothing new is taken.

    Args:
        model: what answers.
        limits: of requests.
        host: name or address to listen on.
        port: 0 takes a free one.

    Raises:
        ValueError: the address cannot be used.
        OSError: the server did not start, or ended by itself.
        KeyboardInterrupt: a signal ended the service.
    """
    with _listen(host, port) as listening:
        config = uvicorn.Config(
            make_app(model, limits),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=round(limits.timeout_secs) + 1,
        )
        server = uvicorn.Server(config)
        # An interrupted `Thread.join` of Python 3.11 takes a running thread for ended.
        ended = threading.Event()

        def run() -> None:
            try:
                server.run(sockets=[listening])
            finally:
                ended.set()

        # In a thread of its own, uvicorn leaves the signals to the command.
        threading.Thread(target=run).start()
        protect(True)  # requests that came are still answered
        try:
            while not server.started and not ended.wait(_LOOK_SECS / 10):
                pass
            if server.started:
                address = _address(listening, host)
                print(f"{model.name} answers at {address}", flush=True)
                print("Ctrl-C ends it.", file=sys.stderr, flush=True)
            while not ended.wait(_LOOK_SECS):
                pass
            raise OSError("the server ended by itself; uvicorn says why, above.")
        finally:
            server.should_exit = True
            ended.wait()
            protect(False)


def _listen(host: str, port: int) -> socket.socket:
    try:
        [found, *_] = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, *_, address = found
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:  # the latter of a name with odd dots
        why = error.strerror if isinstance(error, OSError) else error
        raise ValueError(
            f"--host {host} --port {port}: the service cannot listen there "
            f"({why}). Choose another --port (0 takes a free one), or an "
            "address of this machine."
        ) from None


def _address(listening: socket.socket, host: str) -> str:
    port = listening.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
