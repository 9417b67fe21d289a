"""The tasks of GLUE by name: the layouts of their official files, and their metrics."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bert_jax.config import TaskConfig
from bert_jax.data.labelled.examples import EncodedExamples
from bert_jax.train.task_files import read_examples, read_held_out
from bert_jax.train.tasks import TASKS
from bert_jax.train.tasks.task import Judged

# The headers of the official files, and a row: (train, dev).
_MNLI = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
    "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1"
)
_MNLI_ROW = '0\t1\t1n\tfiction\t( a )\t( b )\t(R a)\t(R b)\tA said "no.\tb\tneutral'
LAYOUTS = {
    "sst2": ("sentence\tlabel", ["a b\t0", 'c "d\t1']),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        ["1\t2\t3\ta?\tb?\t0", "1\t2\t3\ta?\tb?\t1", "4\t5\t6\tlost"],
    ),
    "qnli": (
        "index\tquestion\tsentence\tlabel",
        ["0\twhat?\tthis\tentailment", "1\twhy?\tthis\tnot_entailment"],
    ),
    "rte": (
        "index\tsentence1\tsentence2\tlabel",
        ["0\ta\tb\tentailment", "1\tc\td\tnot_entailment"],
    ),
    "wnli": ("index\tsentence1\tsentence2\tlabel", ["0\ta\tb\t1", "1\tc\td\t0"]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_official_layouts_are_read(name, tmp_path, capsys):
    header, rows = LAYOUTS[name]
    for split in ("train", "dev"):
        (tmp_path / f"{split}.tsv").write_text("\n".join([header, *rows]) + "\n")
    task = TASKS[f"glue/{name}"]
    found = read_examples(task, TaskConfig(kind=task.name, train=tmp_path))
    assert len(found.train) == len(found.held_out) == 2
    assert len(found.outputs) == 2
    assert len(found.train.texts[0]) == (1 if name == "sst2" else 2)
    assert ("left out: 1 rows" in capsys.readouterr().out) == (name == "qqp")
    # What the run keeps is read again without the name of the task.
    sha256 = found.held_out.sha256()
    assert read_held_out(task, found.as_read, sha256) == found.held_out


def test_mnli_is_judged_on_its_matched_part(tmp_path):
    labels = ("neutral", "entailment", "contradiction")
    train = [f"{_MNLI_ROW}\t{label}" for label in labels]
    (tmp_path / "train.tsv").write_text("\n".join([f"{_MNLI}\tgold_label", *train]))
    more = "".join(f"\tlabel{n}" for n in range(2, 6))
    dev = [f"{_MNLI_ROW}\t\t\t\t\t{labels[0]}"]
    for part in ("matched", "mismatched"):
        header = f"{_MNLI}{more}\tgold_label"
        (tmp_path / f"dev_{part}.tsv").write_text("\n".join([header, *dev]))
    task = TASKS["glue/mnli"]
    found = read_examples(task, TaskConfig(kind=task.name, train=tmp_path))
    assert found.as_read.dev.name == "dev_matched.tsv"
    assert found.outputs == ("contradiction", "entailment", "neutral")
    assert found.held_out.texts == (('A said "no.', "b"),)
    other = task.read(tmp_path / "dev_mismatched.tsv", found.as_read, "validation")
    assert other == found.held_out


@pytest.mark.parametrize(
    ("name", "counts", "metrics"),
    [
        ("cola", (8_551, 527), ("matthews",)),
        ("sst2", (67_349, 872), ("accuracy",)),
        ("mrpc", (3_668, 408), ("f1", "accuracy")),
        ("stsb", (5_749, 1_500), ("pearson", "spearman")),
    ],
)
def test_real_files_are_read_from_their_directory(shared_data, name, counts, metrics):
    task = TASKS[f"glue/{name}"]
    cfg = TaskConfig(kind=task.name, train=shared_data / name)
    found = read_examples(task, cfg)
    assert (len(found.train), len(found.held_out)) == counts
    assert tuple(metric.name for metric in task.metrics[: len(metrics)]) == metrics
    sha256 = found.held_out.sha256()
    assert read_held_out(task, found.as_read, sha256) == found.held_out


def test_the_majority_of_mrpc_has_its_known_scores(shared_data):
    task = TASKS["glue/mrpc"]
    held_out = read_examples(task, TaskConfig(train=shared_data / "mrpc")).held_out
    labels = task.targets(held_out, ("0", "1"))
    none = np.zeros((len(labels), 1), np.int32)
    encoded = EncodedExamples(none, none, none, labels, np.arange(len(labels)))
    always = np.tile(np.float32([0, 1]), (len(labels), 1))
    scores = task.scores(Judged(always, encoded, held_out, ("0", "1")))
    assert scores["accuracy"] == pytest.approx(0.6838, abs=5e-5)
    assert scores["f1"] == pytest.approx(0.8122, abs=5e-5)
    assert scores["matthews"] == 0.0


class Glue(tfds.core.GeneratorBasedBuilder):
    """A dataset with the name and the features of TFDS's glue."""

    VERSION = tfds.core.Version("2.0.0")
    BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="mrpc"),)

    def _info(self):
        features = {
            "sentence1": tfds.features.Text(),
            "sentence2": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["not_equivalent", "equivalent"]),
            "idx": np.int32,
            # Nothing reads them.
            "votes": tfds.features.Sequence(np.int32),
            "picture": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(6),
            "validation": self._generate_examples(2),
        }

    def _generate_examples(self, count=0):
        for n in range(count):
            row = {"sentence1": f"é {n}", "sentence2": "b", "label": n % 2, "idx": n}
            yield n, {**row, "votes": [n, n], "picture": b"\xff"}


def test_a_dataset_of_tfds_is_found_by_the_name(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    task = TASKS["glue/mrpc"]
    cfg = TaskConfig(kind="glue/mrpc")
    with pytest.raises(
        ValueError, match=r"(?s)has no files: .*is not prepared.*--train DIR"
    ):
        read_examples(task, cfg)
    Glue(
        data_dir=tmp_path, config="mrpc", file_format="array_record"
    ).download_and_prepare()
    found = read_examples(task, cfg)
    assert (len(found.train), len(found.held_out)) == (6, 2)
    assert found.outputs == ("0", "1"), "1 is the class that F1 counts"
    assert {("é 0", "b"), ("é 1", "b")} == {*found.held_out.texts}
    sha256 = found.held_out.sha256()
    assert read_held_out(task, found.as_read, sha256) == found.held_out
