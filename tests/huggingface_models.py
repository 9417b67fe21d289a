"""Models and tokenizers saved as transformers saves them, for the tests of imports."""

import json

import numpy as np

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}
PIECES = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "[", "]"),
    *(p + c for c in "abcdefghijklmnopqrstuvwxyz" for p in ("", "##")),
]
assert len(PIECES) == SIZES["vocab_size"]
DECODER = "cls.predictions.decoder"
WORDS = "bert.embeddings.word_embeddings.weight"


def make_random(hf, kind, *args, **config):
    """make_random(hf, "BertForMaskedLM"): random everywhere, norms included."""
    model = getattr(hf, kind)(hf.BertConfig(**(SIZES | config)), *args)
    hf.torch.manual_seed(0)
    for parameter in model.parameters():
        hf.torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def save(model, folder, **options):
    model.save_pretrained(folder, **options)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder, pieces=PIECES, **config):
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    config = {"do_lower_case": True} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def save_bin(model, folder, edit=dict, **options):
    """As transformers 4 did: a pickled state_dict, tied tensors and all."""
    import torch

    save(model, folder)
    (folder / "model.safetensors").unlink()
    torch.save(edit(model.state_dict()), folder / "pytorch_model.bin", **options)
    return folder


def edit_json(path, **changes):
    value = json.loads(path.read_text()) | changes
    kept = {key: item for key, item in value.items() if item is not ...}
    path.write_text(json.dumps(kept))


def rename(change):
    return lambda state: {change(name): value for name, value in state.items()}


def assert_equal(found, expected):
    """The same names, and bits."""
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        assert found[name].dtype == np.float32, name
        assert found[name].tobytes() == np.asarray(value).tobytes(), name


def state_of(model):
    """What the table covers: all but the copies of tied tensors."""
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    return {name: v for name, v in state.items() if not name.startswith(DECODER)}
