"""ONNX exports: run by ONNX Runtime, held against our model and the reference."""

import dataclasses
import json
import os
import sys
import warnings

import numpy as np
import portable_models
import pytest
from bare_runs import bare_run
from exchange_models import worst
from family_models import make
from group_runs import tuned
from portable_models import LABELS, TOKENIZER, make_ids, make_model
from prepared_corpus import WORDS

from bert_jax import cli
from bert_jax.config import (
    FinetuneConfig,
    OptimizerConfig,
    TaskConfig,
)
from bert_jax.exchange.export import export_run
from bert_jax.exchange.families.registry import FAMILIES
from bert_jax.exchange.quantized import QUANTIZED_FILE, quantize_onnx
from bert_jax.exchange.tensors import flatten, from_tensors, unflatten
from bert_jax.exchange.write_onnx import (
    MODEL_FILE,
    check_onnx,
    verify_onnx,
    write_onnx,
)
from bert_jax.train.finetune import finetune

# PyTorch's exporter takes some seconds a layer.
pytestmark = pytest.mark.slow

FILES = (MODEL_FILE, QUANTIZED_FILE)
# Float32 sums in another order: 3.7e-6 seen over five draws of each head.
TOLERANCE = 1e-5
# The exporter takes seconds a layer: two cases have one layer, the others three.
CASES = {
    "pretraining": {"head": "pretraining", "gelu": "exact", "num_layers": 1},
    "tokens": {"head": "tokens", "gelu": "tanh", "num_layers": 1},
    "mlm": {"head": "mlm", "gelu": "tanh"},
    "classifier": {"head": "classifier", "gelu": "exact"},
    "regression": {"head": "classifier", "gelu": "tanh", "labels": ("score",)},
    "spans": {"head": "spans", "gelu": "exact"},
}
EVERY_CASE = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def onnx(transformers):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # their own
            import onnx
            import onnxruntime
            import onnxscript  # noqa: F401
    except ModuleNotFoundError as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{missing}; install .[onnx]")
    onnxruntime.set_default_logger_severity(4)  # the errors that tests provoke
    return onnx


@pytest.fixture(scope="module")
def export(onnx, tiny, tmp_path_factory):
    """export("classifier") -> the model of that case and the directory of its export."""
    made = {}

    def export(case):
        if case not in made:
            model = make_model(tiny, **CASES[case])
            folder = tmp_path_factory.mktemp("onnx") / "export"
            write_onnx(model, folder)
            made[case] = model, folder
        return made[case]

    return export


def run(folder, ids) -> dict:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        folder / "model.onnx", providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    feeds = {
        "input_ids": ids.input_ids,
        "attention_mask": ids.mask,
        "token_type_ids": ids.segment_ids,
    }
    feeds = {name: x.astype(np.int64) for name, x in feeds.items()}
    return dict(zip(names, session.run(names, feeds), strict=True))


@EVERY_CASE
def test_logits_match_ours_and_the_reference_for_every_shape(export, case):
    model, folder = export(case)
    ids = make_ids(rows=3, length=20)
    difference = worst(verify_onnx(folder, model.probe(ids)))
    assert 0.0 < difference < TOLERANCE
    for rows, length in ((3, 20), (1, 5), (7, 12), (1, 24), (2, 1)):
        ids = make_ids(rows, length)
        gap = portable_models.real_differences(model, run(folder, ids), ids)
        assert gap < TOLERANCE, (rows, length)


@EVERY_CASE
def test_padding_never_reaches_real_tokens(export, case):
    _, folder = export(case)
    ids = make_ids(rows=3, length=20)
    before = run(folder, ids)
    after = run(folder, portable_models.change_padding(ids))
    for name, value in before.items():
        rows = ids.mask == 1 if value.shape[:2] == ids.mask.shape else slice(None)
        np.testing.assert_array_equal(value[rows], after[name][rows])


@pytest.mark.parametrize(
    "change", [{"input_ids": TOKENIZER.vocab_size}, {"segment_ids": 2}]
)
def test_ids_beyond_their_table_are_errors(export, change):
    (name, value), ids = *change.items(), make_ids(rows=2, length=6)
    getattr(ids, name)[0, 1] = value
    with pytest.raises(Exception, match=f"out of data bounds, idx={value}"):
        run(export("tokens")[1], ids)


def test_texts_beyond_the_position_table_are_errors(export):
    for length in (25, 48):
        with pytest.raises(Exception, match=f"24 by {length}"):
            run(export("tokens")[1], make_ids(rows=2, length=length))


def test_axes_are_named_and_the_operators_are_those_of_an_older_runtime(onnx, export):
    model = onnx.load(export("pretraining")[1] / "model.onnx")
    assert [(x.domain, x.version) for x in model.opset_import] == [("", 20)]
    axes = {
        x.name: [
            axis.dim_param or axis.dim_value for axis in x.type.tensor_type.shape.dim
        ]
        for x in (*model.graph.input, *model.graph.output)
    }
    free = ["batch", "length"]
    assert axes == {
        "input_ids": free,
        "attention_mask": free,
        "token_type_ids": free,
        "prediction_logits": [*free, 59],
        "seq_relationship_logits": ["batch", 2],
    }


def test_config_labels_and_tokenizer_lie_beside_the_graph(export, transformers):
    _, folder = export("tokens")
    assert {path.name for path in folder.iterdir()} == {
        *("model.onnx", "config.json", "vocab.txt"),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    }
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.id2label == dict(enumerate(LABELS))
    assert config.architectures == ["BertForTokenClassification"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    special = TOKENIZER.special
    assert tokenizer("river")["input_ids"] == [special.cls, 5, special.sep]


def test_verification_sees_differences(export):
    model, folder = export("tokens")
    probe = model.probe(make_ids(rows=3, length=20))
    logits = np.array(probe.outputs["logits"])
    logits[1, 3, 1] += 0.5
    changed = probe._replace(outputs={"logits": logits})
    found = worst(verify_onnx(folder, changed))
    assert found == pytest.approx(0.5, abs=TOLERANCE)


def test_fresh_biases_need_not_be_in_the_graph(onnx, tiny, tmp_path):
    model = make_model(tiny, "classifier", num_layers=1)
    flat = flatten(model.params)
    for path in flat:
        if path.endswith("bias"):
            flat[path] = np.zeros_like(flat[path])
    model = dataclasses.replace(model, params=unflatten(flat))
    write_onnx(model, tmp_path)
    check_onnx(tmp_path, model)
    assert (
        worst(verify_onnx(tmp_path, model.probe(make_ids(rows=3, length=9))))
        < TOLERANCE
    )


@pytest.mark.parametrize(
    "name",
    [
        "modernbert",
        *(
            pytest.param(name, marks=pytest.mark.slow(ci=False))
            for name in ("nomic_bert", "eurobert")
        ),
    ],
)
def test_other_families_are_exported_and_every_tensor_is_looked_for(
    onnx, tmp_path, name
):
    theirs = make(name, "mlm", layers=1, vocab=TOKENIZER.vocab_size)
    rows = FAMILIES[name].rows(theirs.cfg, "mlm")
    params = from_tensors(theirs.cfg, theirs.tensors, rows).params
    model = portable_models.Model(theirs.cfg, params, "mlm", TOKENIZER)
    write_onnx(model, tmp_path)
    check_onnx(tmp_path, model)
    ids = make_ids(rows=3, length=9)
    assert worst(verify_onnx(tmp_path, model.probe(ids))) < TOLERANCE
    flat = flatten(params)
    flat["layers/attention/key/kernel"] = flat["layers/attention/key/kernel"] * 2
    with pytest.raises(ValueError, match="does not hold the tensor"):
        check_onnx(tmp_path, dataclasses.replace(model, params=unflatten(flat)))


def test_hidden_states_come_on_request(onnx, tiny, tmp_path):
    model = make_model(tiny, "spans", hidden_states=True, num_layers=1)
    write_onnx(model, tmp_path)
    ids = make_ids(rows=3, length=20)
    names = {"start_logits", "end_logits", "last_hidden_state"}
    assert run(tmp_path, ids).keys() == names
    assert worst(verify_onnx(tmp_path, model.probe(ids))) < TOLERANCE
    check_onnx(tmp_path, model)


@pytest.mark.parametrize("name", ["onnx", "onnxscript"])
def test_a_missing_library_is_named(onnx, tiny, tmp_path, monkeypatch, name):
    model = make_model(tiny, "spans")
    monkeypatch.setitem(sys.modules, name, None)
    message = rf"need {name}, .*pip install 'bert_jax\[onnx\]'"
    with pytest.raises(ValueError, match=message):
        write_onnx(model, tmp_path / "export")
    assert not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def tuned_run(tmp_path_factory):
    """A run of 20 steps on texts whose class a word tells."""
    folder = tmp_path_factory.mktemp("int8")
    checkpoint = bare_run(folder)
    rng = np.random.default_rng(0)
    rows = [rng.choice(WORDS, 6) for _ in range(160)]
    lines = [f"{' '.join(row)}\t{WORDS[0] in row}" for row in rows]
    (folder / "x.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    cfg = FinetuneConfig(
        checkpoint=checkpoint,
        from_scratch=True,
        task=TaskConfig(train=folder / "x.tsv", dev=folder / "x.tsv"),
        optimizer=OptimizerConfig(learning_rate=5e-3, b2=0.98),
        sequence_length=16,
        num_epochs=4,
    )
    finetune(cfg, folder / "run")
    return folder / "run"


@pytest.mark.slow(ci=False)
def test_eight_bits_are_measured_on_the_dev_set(onnx, tuned_run, tmp_path, capfd):
    cli.main(
        [
            *("export", str(tuned_run), "--to", "onnx"),
            *("--quantize", "int8", "--output", str(tmp_path / "out")),
        ]
    )
    manifest = json.loads((tmp_path / "out" / "bert_jax_export.json").read_text())
    whole, small = (manifest["int8"]["bytes"][x] for x in FILES)
    assert small < whole
    scores = manifest["int8"]["scores"]
    results = json.loads((tuned_run / "results.json").read_text())["eval"]
    # ONNX Runtime's float32 sums in another order than ours.
    assert scores[FILES[0]] == pytest.approx(results, abs=1e-4)
    changed = abs(scores[FILES[1]]["loss"] - scores[FILES[0]]["loss"])
    assert 0.0 < changed < 0.1, "8 bits change the loss, but not much"
    said = capfd.readouterr()
    assert "accuracy" in said.out
    assert "pre-processing" not in said.err
    graph = onnx.load(tmp_path / "out" / FILES[1]).graph
    kinds = [node.op_type for node in graph.node]
    # Four of attention, two of the MLP, the pooler and the head.
    assert kinds.count("MatMulInteger") == 8


def test_a_disk_that_is_full_for_the_quantiser_is_told(onnx, export, monkeypatch):
    _, folder = export("mlm")
    infer = onnx.shape_inference.infer_shapes_path

    def cut_short(source, target, **options):
        infer(source, target, **options)
        os.truncate(target, 1_000)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes_path", cut_short)
    with pytest.raises(OSError, match="which was cut short"):
        quantize_onnx(folder)


def test_only_onnx_is_quantised(tuned_run, tmp_path):
    with pytest.raises(ValueError, match="--quantize int8 would be ignored"):
        export_run(tuned_run, tmp_path / "out", "huggingface", quantize="int8")


@pytest.mark.slow(ci=False)
@pytest.mark.parametrize("name", ["choice", "scored"])
def test_eight_bits_of_groups_are_measured(onnx, tmp_path, name):
    """The graph takes one row at a time; some examples have fewer choices than others."""
    run, _, results = tuned(tmp_path, bare_run(tmp_path), name)
    options = {"hidden_states": name == "choice"}
    export_run(run, tmp_path / "out", "onnx", quantize="int8", **options)
    manifest = json.loads((tmp_path / "out" / "bert_jax_export.json").read_text())
    scores = manifest["int8"]["scores"]
    assert scores[FILES[0]] == pytest.approx(results["eval"], abs=1e-4)
    assert scores[FILES[1]] != scores[FILES[0]]
