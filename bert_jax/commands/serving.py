"""`bert-jax serve`: a run answers over HTTP."""

import dataclasses
import pathlib
from typing import Annotated

from bert_jax.commands.shared import RunDir, Step
from bert_jax.config.checks import require
from bert_jax.config.flags import box
from bert_jax.exchange.libraries import library
from bert_jax.serve.limits import Limits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Serve:
    """Answers over HTTP with a run, and has a page to try it in a browser.

    For example: `bert-jax serve tuned --port 8000`.
    """

    run_dir: RunDir
    """Run directory of `finetune`; or of `pretrain` or `import`, which fills in masks."""
    port: int = 8000
    """Port to listen on; 0 takes a free one. The address is printed."""
    host: str = "127.0.0.1"
    """Address to listen on. Default: this machine only. 0.0.0.0 lets everyone in who
    reaches this machine: there is no password and no encryption."""
    top: int | None = None
    """Number of guesses for each mask, where the run fills in masks. Default: 5."""
    step: Step = None
    compile_cache: pathlib.Path | None = None
    """Directory that keeps compiled programs, so that the next start need not compile."""
    limits: Annotated[Limits, *box("limits")] = Limits()

    def run(self) -> None:
        require(
            0 <= self.port < 2**16, f"--port {self.port} is not in [0, {2**16 - 1}]."
        )
        top = self.top
        require(top is None or top > 0, f"--top {top} must be greater than 0.")
        for name in ("starlette", "uvicorn"):
            library(name, "serve", "Services (`bert-jax serve`)")
        import jax

        from bert_jax.runtime.compile_cache import use_compile_cache
        from bert_jax.serve.served import load_served
        from bert_jax.serve.server import serve

        use_compile_cache(self.compile_cache, jax.local_devices()[:1])
        size = self.limits.batch_size
        model = load_served(self.run_dir, step=self.step, batch_size=size, top=top or 5)
        require(
            top is None or model.mask is not None,
            f"--top {top} would be ignored: {self.run_dir} fills in no masks. Leave it "
            "out.",
        )
        # The first answer compiles; a model that cannot answer fails here.
        model.compute([model.example])
        serve(model, self.limits, self.host, self.port)
