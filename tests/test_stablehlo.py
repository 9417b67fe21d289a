"""StableHLO exports: run from their files alone, held against model and reference."""

import dataclasses
import functools
import json
import os
import re
import runpy
import subprocess
import sys

import jax
import jax.export
import numpy as np
import portable_models
import pytest
import reference
from exchange_models import worst
from portable_models import HEADS, LABELS, TOKENIZER, make_ids, make_model
from safetensors.numpy import load_file, save_file

from bert_jax.exchange import write_stablehlo

# Float32 sums in another order: 2.7e-6 seen over four draws of each head.
TOLERANCE = 1e-5
TEXTS = ("river stone", "a river")


@pytest.fixture(scope="module")
def write(tiny, tmp_path_factory):
    """write("classifier", gelu="exact") -> model and the directory of its export."""
    made = {}

    def write(head, **changes):
        key = (head, *changes.items())
        if key not in made:
            model = make_model(tiny, head, **changes)
            folder = tmp_path_factory.mktemp("stablehlo") / "export"
            write_stablehlo.write_stablehlo(model, folder)
            made[key] = model, folder
        return made[key]

    return write


@functools.cache  # what a loaded computation has compiled stays with it
def load(folder) -> jax.export.Exported:
    return jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))


def run(folder, ids) -> dict:
    weights = load_file(folder / "model.safetensors")
    found = load(folder).call(weights, ids.input_ids, ids.mask, ids.segment_ids)
    return {name: np.asarray(value) for name, value in found.items()}


# The encoder has a GELU and so has the MLM head; the others have none of their own.
@pytest.mark.parametrize(
    ("head", "gelu"), [*((head, "tanh") for head in HEADS), ("pretraining", "exact")]
)
def test_logits_match_the_reference(write, head, gelu):
    model, folder = write(head, gelu=gelu)
    ids = make_ids(rows=3, length=20)
    found = run(folder, ids)
    assert portable_models.real_differences(model, found, ids) < TOLERANCE


@pytest.mark.parametrize("head", HEADS)
def test_logits_match_ours(write, head):
    model, folder = write(head, gelu="tanh")
    ids = make_ids(rows=3, length=20)
    difference = worst(write_stablehlo.verify_stablehlo(folder, model.probe(ids)))
    assert difference < TOLERANCE


def test_products_are_float32_on_every_platform(write):
    _, folder = write("pretraining", gelu="exact")
    assert "HIGHEST" in load(folder).mlir_module()


@pytest.mark.parametrize("head", HEADS)
def test_batch_and_length_are_free(write, head):
    model, folder = write(head, gelu="tanh")
    shapes = [(1, 5), (7, 12)]
    for rows, length in shapes if head == "pretraining" else shapes[1:]:
        ids = make_ids(rows, length)
        gap = portable_models.real_differences(model, run(folder, ids), ids)
        assert gap < TOLERANCE, (rows, length)


@pytest.mark.parametrize("head", HEADS)
def test_padding_never_reaches_real_tokens(write, head):
    _, folder = write(head, gelu="tanh")
    ids = make_ids(rows=3, length=20)
    before = run(folder, ids)
    after = run(folder, portable_models.change_padding(ids))
    for name, value in before.items():
        rows = ids.mask == 1 if value.shape[:2] == ids.mask.shape else slice(None)
        np.testing.assert_array_equal(value[rows], after[name][rows])


@pytest.mark.parametrize(
    ("field", "value"),
    [("input_ids", TOKENIZER.vocab_size), ("input_ids", -1), ("segment_ids", 2)],
)
def test_ids_outside_their_table_give_nan_in_their_row(write, field, value):
    _, folder = write("classifier", gelu="tanh")
    ids = make_ids(rows=3, length=20)
    before = run(folder, ids)["logits"]
    getattr(ids, field)[1, 2] = value
    after = run(folder, ids)["logits"]
    assert np.isnan(after[1]).all()
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])


def test_texts_beyond_the_position_table_are_refused(write):
    _, folder = write("classifier", gelu="tanh")
    with pytest.raises(ValueError, match="shapes") as caught:
        run(folder, make_ids(rows=2, length=25))
    assert "constraint length <= 24" in str(caught.value.__cause__)


@pytest.mark.parametrize("head", HEADS)
def test_the_computation_stands_alone(write, head):
    """No weights, devices, mesh or custom calls in it; three platforms."""
    gelu = "exact" if head == "pretraining" else "tanh"
    _, folder = write(head, gelu=gelu)
    exported = load(folder)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert exported.nr_devices == 1
    text = exported.mlir_module()
    assert set(re.findall(r"custom_call @(\w+)", text)) == {"shape_assertion"}
    assert not re.search(r"sharding|mesh", text)
    # Constants of more than one value, such as a weight would be.
    assert not re.findall(r'constant dense<(?:\[|")', text)
    weights = load_file(folder / "model.safetensors")
    names = [jax.tree_util.keystr(path) for path, _ in exported_paths(exported)]
    assert names[: len(weights)] == [f"[0][{name!r}]" for name in sorted(weights)]


def test_it_runs_where_its_arguments_are(write):
    _, folder = write("classifier", gelu="tanh")
    ids, place = make_ids(rows=3, length=20), jax.devices()[3]
    weights = load_file(folder / "model.safetensors")
    moved = jax.device_put((weights, ids.input_ids, ids.mask, ids.segment_ids), place)
    assert load(folder).call(*moved)["logits"].devices() == {place}


def exported_paths(exported):
    args, _ = jax.tree_util.tree_unflatten(
        exported.in_tree, range(exported.in_tree.num_leaves)
    )
    return jax.tree_util.tree_flatten_with_path(args)[0]


def load_meta(folder) -> dict:
    return json.loads((folder / "meta.json").read_text())


def test_meta_says_how_to_call_it(write):
    _, folder = write("tokens", gelu="tanh")
    meta = load_meta(folder)
    assert meta["head"] == "tokens"
    assert meta["labels"] == list(LABELS)
    assert meta["jax"] == jax.__version__
    assert meta["platforms"] == ["cpu", "cuda", "tpu"]
    exported = load(folder)
    assert meta["calling_convention_version"] == exported.calling_convention_version
    (logits,) = exported.out_avals
    assert meta["returns"] == {"logits": "float32 [batch, length, labels]"}
    assert str(logits.dtype) == "float32"
    assert len(logits.shape) == 3
    assert [str(aval.dtype) for aval in exported.in_avals[-3:]] == ["int32"] * 3
    assert list(meta["arguments"])[1:] == [
        *("input_ids", "attention_mask", "token_type_ids")
    ]


def test_the_weights_are_those_of_the_file(write, tmp_path):
    model, folder = write("classifier", gelu="tanh")
    weights = load_file(folder / "model.safetensors")
    assert weights["layers/attention/query/kernel"].shape == (3, 32, 4, 8)
    weights["classifier/bias"] += 0.25
    for name in ("model.stablehlo", "meta.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    save_file(weights, tmp_path / "model.safetensors")
    ids = make_ids(rows=3, length=20)
    changed = worst(write_stablehlo.verify_stablehlo(tmp_path, model.probe(ids)))
    assert changed == pytest.approx(0.25, abs=TOLERANCE)


def test_verification_asks_for_every_platform(write, monkeypatch):
    model, folder = write("classifier", gelu="tanh")
    ids = make_ids(rows=3, length=20)
    monkeypatch.setattr(write_stablehlo, "PLATFORMS", ("cpu", "rocm"))
    with pytest.raises(ValueError, match=r"not lowered for \['rocm'\]"):
        write_stablehlo.verify_stablehlo(folder, model.probe(ids))


@pytest.mark.parametrize("head", ["classifier", "pretraining"])
def test_hidden_states_come_on_request(write, head):
    model, folder = write(head, hidden_states=True, num_layers=2)
    ids = make_ids(rows=2, length=9)
    found = run(folder, ids)["last_hidden_state"]
    assert found.shape == (2, 9, 32)
    params = reference.to_float64(model.params)
    for row, mask in enumerate(ids.mask):
        real = np.flatnonzero(mask)
        columns = (ids.input_ids[row, real], ids.segment_ids[row, real], real)
        hidden = reference.encode(model.cfg, params, *columns)
        np.testing.assert_allclose(found[row, real], hidden, atol=TOLERANCE)
    assert worst(write_stablehlo.verify_stablehlo(folder, model.probe(ids))) < TOLERANCE
    returns = load_meta(folder)["returns"]
    assert returns["last_hidden_state"] == "float32 [batch, length, hidden]"


@pytest.fixture(scope="module")
def printed(write, tmp_path_factory) -> dict[str, list[str]]:
    """What each run.py prints, in a Python that cannot import bert_jax."""
    site = tmp_path_factory.mktemp("site")
    block = "import sys\nsys.modules['bert_jax'] = None\n"
    (site / "sitecustomize.py").write_text(block)
    program = """if True:
        import runpy, sys
        try:
            import bert_jax
        except ModuleNotFoundError:
            print("blocked")
        for sys.argv in {argvs}:
            print(sys.argv[0])
            runpy.run_path(sys.argv[0], run_name="__main__")
    """
    paths = [str(write(head, gelu="tanh")[1] / "run.py") for head in HEADS]
    argvs = [[path, *TEXTS] for path in paths]
    done = subprocess.run(
        [sys.executable, "-c", program.format(argvs=argvs)],
        env={**os.environ, "PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"},
        cwd=site,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, *blocks = re.split("|".join(map(re.escape, paths)), done.stdout)
    assert first == "blocked\n"
    return {
        head: block[1:].splitlines() for head, block in zip(HEADS, blocks, strict=True)
    }


def test_without_one_text_or_two_it_says_its_usage(write):
    _, folder = write("mlm")
    for texts in ([], ["The", "river", "runs."]):
        command = [sys.executable, str(folder / "run.py"), *texts]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.stderr == "usage: python run.py TEXT [TEXT]\n"
        assert (done.returncode, done.stdout) == (1, "")


def test_of_several_labels_all_that_are_likely_are_shown(
    write, tmp_path, monkeypatch, capsys
):
    model, _ = write("classifier", gelu="tanh")
    several = dataclasses.replace(model, problem_type="multi_label_classification")
    write_stablehlo.write_stablehlo(several, tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py", *TEXTS])
    runpy.run_path(str(tmp_path / "run.py"))
    labels, logits = capsys.readouterr().out.splitlines()
    likely = [x for x, y in zip(LABELS, json.loads(logits), strict=True) if y > 0]
    assert labels == str(likely)


def test_a_long_text_is_cut_to_the_rows_of_the_training(
    write, tmp_path, monkeypatch, capsys
):
    model, _ = write("tokens", gelu="tanh")
    cut = dataclasses.replace(model, sequence_length=5)
    write_stablehlo.write_stablehlo(cut, tmp_path)
    text = "river stone " * model.cfg.max_positions
    monkeypatch.setattr(sys, "argv", ["run.py", text])
    runpy.run_path(str(tmp_path / "run.py"))
    tokens = capsys.readouterr().out.splitlines()
    assert len(tokens) == 5
    assert tokens[-1].startswith("[SEP]\t")


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_ten_lines_run_it_without_bert_jax(write, printed, head):
    model, folder = write(head, gelu="tanh")
    program = (folder / "run.py").read_text()
    lines = [line for line in program.splitlines() if line and line[0] != "#"]
    assert len(lines) == 10
    assert "bert_jax" not in program

    special = TOKENIZER.special
    a, b = TOKENIZER.encode(TEXTS)
    row = np.array([[special.cls, *a, special.sep, *b, special.sep]], np.int32)
    segments = (np.arange(row.size) > len(a) + 1).astype(np.int32)[None]
    found = model.expected(portable_models.Ids(row, segments, np.ones_like(row)))
    pieces = [TOKENIZER.pieces[i] for i in row[0]]
    shown = printed[head]
    if head == "tokens":
        best = found["logits"][0].argmax(-1)
        assert shown == [
            f"{piece}\t{LABELS[i]}" for piece, i in zip(pieces, best, strict=True)
        ]
        return
    if head == "spans":
        best = [found[name][0].argmax() for name in ("start_logits", "end_logits")]
        assert shown == [pieces[i] for i in best]
        return
    if head == "classifier":
        second = found["logits"][0]
        assert shown[0] == LABELS[second.argmax()]
    else:
        masked = "logits" if head == "mlm" else "prediction_logits"
        best = found[masked][0].argmax(-1)
        words = TOKENIZER.decode([i for i in best if i > special.mask])
        assert shown[0] == words
        if head == "mlm":
            return
        second = found["seq_relationship_logits"][0]
    np.testing.assert_allclose(json.loads(shown[1]), second, atol=TOLERANCE)
