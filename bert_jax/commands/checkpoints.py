"""The `checkpoints` command."""

import dataclasses
import json

from bert_jax.commands.shared import RunDir


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListCheckpoints:
    """Lists the checkpoints of a run and reads every file: is it as it was saved?

    For example: `bert-jax checkpoints run`.
    """

    run_dir: RunDir
    """Run directory of `pretrain`, `finetune` or `import`."""
    json: bool = False
    """Print one JSON object for each checkpoint. Default: a table."""

    def run(self) -> None:
        from bert_jax.train.runs.checkpoint_list import list_checkpoints, table

        found = list_checkpoints(self.run_dir)
        if self.json:
            for checkpoint in found:
                print(json.dumps(dataclasses.asdict(checkpoint)))
            return
        print(table(found))
