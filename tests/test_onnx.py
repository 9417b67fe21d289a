"""ONNX exports: run by ONNX Runtime, held against our model and the reference."""

import dataclasses
import json
import os
import sys
import warnings

import numpy as np
import portable_models
import pytest
from portable_models import HEADS, LABELS, TOKENIZER, make_ids, make_model

from bert_jax.exchange import onnx_graph

# Float32 sums in another order: 2.7e-6 seen over four draws of each head.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def onnx():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # their own
            import onnx
            import onnxruntime  # noqa: F401
    except ModuleNotFoundError as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{missing}; install .[onnx]")
    return onnx


@pytest.fixture(scope="module")
def write(onnx, tiny, tmp_path_factory):
    """write("classifier", gelu="exact") -> model and the directory of its export."""

    def write(head, **changes):
        model = make_model(tiny, head, **changes)
        folder = tmp_path_factory.mktemp("onnx") / "export"
        onnx_graph.write_onnx(*model.parts, folder, labels=model.labels)
        return model, folder

    return write


@pytest.fixture(scope="module")
def pretraining(write):
    return write("pretraining")


def run(folder, ids) -> dict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # the errors that tests provoke
    session = onnxruntime.InferenceSession(
        folder / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    feeds = {
        "input_ids": ids.input_ids,
        "attention_mask": ids.mask,
        "token_type_ids": ids.segment_ids,
    }
    feeds = {name: x.astype(np.int64) for name, x in feeds.items()}
    return dict(zip(names, session.run(names, feeds), strict=True))


@pytest.mark.parametrize("gelu", ["tanh", "exact"])
@pytest.mark.parametrize("head", HEADS)
def test_logits_match_ours_and_the_reference(write, head, gelu):
    model, folder = write(head, gelu=gelu)
    ids = make_ids(rows=3, length=20)
    outputs = model.ours(ids)
    assert onnx_graph.verify_onnx(folder, head, outputs, *ids) < TOLERANCE
    found = run(folder, ids)
    assert portable_models.real_differences(model, found, ids) < TOLERANCE


@pytest.mark.parametrize("head", HEADS)
def test_batch_and_length_are_free(write, head):
    model, folder = write(head)
    for rows, length in ((1, 5), (7, 12), (1, 24), (2, 1)):
        ids = make_ids(rows, length)
        gap = portable_models.real_differences(model, run(folder, ids), ids)
        assert gap < TOLERANCE, (rows, length)


@pytest.mark.parametrize("head", HEADS)
def test_padding_never_reaches_real_tokens(write, head):
    _, folder = write(head)
    ids = make_ids(rows=3, length=20)
    before = run(folder, ids)
    after = run(folder, portable_models.change_padding(ids))
    for name, value in before.items():
        rows = ids.mask == 1 if value.shape[:2] == ids.mask.shape else slice(None)
        np.testing.assert_array_equal(value[rows], after[name][rows])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": TOKENIZER.vocab_size}, r"token \(table of 59\)"),
        ({"segment_ids": 2}, r"segment \(table of 2\)"),
    ],
)
def test_ids_beyond_their_table_are_errors(pretraining, change, message):
    (name, value), ids = *change.items(), make_ids(rows=2, length=6)
    getattr(ids, name)[0, 1] = value
    with pytest.raises(Exception, match=f"{message}.*out of data bounds, idx={value}"):
        run(pretraining[1], ids)


def test_texts_beyond_the_position_table_are_errors(pretraining):
    run(pretraining[1], make_ids(rows=2, length=24))
    for length in (25, 48):
        with pytest.raises(Exception, match=r"position.*\(at most 24\)"):
            run(pretraining[1], make_ids(rows=2, length=length))


def test_the_file_speaks_of_itself(onnx, pretraining, write):
    model, folder = pretraining
    proto = onnx.load(folder / "model.onnx")
    assert [entry.version for entry in proto.opset_import] == [20]
    shapes = {x.name: tuple(x.dims) for x in proto.graph.initializer}
    assert shapes["bert.embeddings.word_embeddings.weight"] == (59, 32)
    assert shapes["cls.predictions.bias"] == (59,)
    assert shapes["bert.encoder.layer.2.intermediate.dense.weight"] == (48, 32)
    axes = [
        [axis.dim_param or axis.dim_value for axis in x.type.tensor_type.shape.dim]
        for x in (*proto.graph.input, *proto.graph.output)
    ]
    open_axes = ["batch", "length"]
    assert axes == [open_axes] * 3 + [[*open_axes, 59], ["batch", 2]]
    _, tagger = write("tokens", gelu="exact")
    properties = {
        entry.key: json.loads(entry.value)
        for entry in onnx.load(tagger / "model.onnx").metadata_props
    }
    assert properties["labels"] == list(LABELS)
    assert properties["head"] == "tokens"
    assert properties["gelu"] == "exact"
    assert properties["max_positions"] == model.cfg.max_positions
    assert (tagger / "tokenizer.json").exists()


def test_large_models_keep_their_weights_beside_the_file(
    write, pretraining, monkeypatch
):
    monkeypatch.setattr(onnx_graph, "EXTERNAL_BYTES", 50_000)
    model, folder = write("pretraining")
    assert not (pretraining[1] / "model.onnx.data").exists()
    # All but the tensors under 1 KiB, which ONNX leaves inside.
    assert (folder / "model.onnx.data").stat().st_size > 50_000
    assert (folder / "model.onnx").stat().st_size < 50_000
    ids = make_ids(rows=3, length=20)
    assert onnx_graph.verify_onnx(folder, "pretraining", model.ours(ids), *ids) < 1e-5
    small, large = run(pretraining[1], ids), run(folder, ids)
    for name, value in small.items():
        np.testing.assert_array_equal(value, large[name])


def test_verification_sees_differences(write):
    model, folder = write("spans")
    ids = make_ids(rows=3, length=20)
    (ends,) = map(np.array, model.ours(ids))

    def verify(outputs, *changed):
        return onnx_graph.verify_onnx(folder, "spans", outputs, *(changed or ids))

    ends[1, 3, 1] += 0.5
    assert verify([ends]) == pytest.approx(0.5, abs=1e-5)
    ends[1, 3, 1] -= 0.5
    ends[1, 19] += 0.5  # padding
    assert verify([ends]) < TOLERANCE
    ends[2, 0] = np.nan
    assert np.isnan(verify([ends]))
    with pytest.raises(ValueError, match=r"start_logits is \[3, 19\] here"):
        verify([ends[:, :19]])
    with pytest.raises(ValueError, match="3 outputs are given; a spans model has 2"):
        verify([ends, ends, ends])
    with pytest.raises(ValueError, match="padding behind"):
        verify([ends], ids.input_ids, ids.segment_ids, ids.mask[:, ::-1])


def test_exports_appear_whole_or_not_at_all(onnx, tiny, tmp_path):
    model = make_model(tiny, "classifier")
    folder = tmp_path / "export"

    def write(labels=LABELS, model=model, **options):
        onnx_graph.write_onnx(*model.parts, folder, labels=labels, **options)

    for labels in (None, LABELS[:2], ("up", "up", "down")):
        with pytest.raises(ValueError, match=r"labels=.*\[3\]"):
            write(labels)
    with pytest.raises(ValueError, match="pieces"):
        write(model=dataclasses.replace(model, cfg=tiny))
    with pytest.raises(ValueError, match="would be ignored"):
        write(model=make_model(tiny, "spans"))
    assert not folder.exists()
    write()
    (folder / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="is taken"):
        write()
    broken = dataclasses.replace(model, params={**model.params, "pooler": {}})
    with pytest.raises(ValueError, match="pooler/kernel"):
        write(model=broken, overwrite=True)
    assert (folder / "mine.txt").exists()
    write(overwrite=True)
    assert not (folder / "mine.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_missing_library_is_named(tiny, tmp_path, monkeypatch):
    model = make_model(tiny, "spans")
    for name in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    install = r"pip install 'bert_jax\[onnx\]'"
    with pytest.raises(ValueError, match=f"need onnx, .*{install}"):
        onnx_graph.write_onnx(*model.parts, tmp_path / "export")
    with pytest.raises(ValueError, match=f"need onnxruntime, .*{install}"):
        onnx_graph.verify_onnx(tmp_path, "spans", (), None, None, None)
    assert not any(tmp_path.iterdir())
