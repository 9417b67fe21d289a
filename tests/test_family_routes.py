"""A model of another family on its whole way: read, trained, and back to its library."""

import itertools
import json
import logging

import numpy as np
import pytest
from family_models import OWN, make
from huggingface_tokenizers import save_tokenizer

from bert_jax import cli

# Whose tokenizer a family's published models have, and the pieces that the text gives.
FORMATS = {
    "roberta": ("roberta", 400),
    "modernbert": ("modernbert", 400),
    "eurobert": ("modernbert", 400),
    "xlm-roberta": ("xlm-roberta", 70),
}
LINES = [
    "The river runs past an old stone bridge, and nobody crosses it after dark.",
    "In 1912 the town had 4,000 people; it has 61 now (and two schools).",
    "Ça coûte 5 € – naïve façade, 東京, don't-stop ",
] * 40


@pytest.fixture(scope="module")
def theirs(hf, tmp_path_factory):
    """theirs(family) -> (its PyTorch model, the directory that transformers saved)."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name) / "theirs"
            kind, size = FORMATS[name]
            save_tokenizer(kind, LINES, folder, size)
            tokenizer = hf.AutoTokenizer.from_pretrained(folder)
            ids = {"cls": "bos_token_id", "sep": "eos_token_id"}
            ids = {key: getattr(tokenizer, f"{x}_token_id") for x, key in ids.items()}
            ids["pad_token_id"] = tokenizer.pad_token_id
            ids |= {key: x for key, x in OWN[name].items() if not key.endswith("_id")}
            model = make(name, "mlm", vocab=len(tokenizer), positions=64, **ids).model
            model.save_pretrained(folder)
            made[name] = model, folder
        return made[name]

    return get


def command(*args):
    assert cli.main([str(x) for x in args]) in (0, None)


@pytest.mark.parametrize(
    "name",
    [
        "modernbert",
        *(
            pytest.param(x, marks=pytest.mark.slow(ci=False))
            for x in FORMATS
            if x != "modernbert"
        ),
    ],
)
def test_theirs_to_ours_to_theirs(theirs, hf, tmp_path, caplog, name):
    """Every bit and id comes back, and what is loaded there gives no warning."""
    model, folder = theirs(name)
    command("import", folder, "--output", tmp_path / "run")
    command("export", tmp_path / "run", "--output", tmp_path / "back")
    with caplog.at_level(logging.WARNING):
        again = hf.AutoModelForMaskedLM.from_pretrained(tmp_path / "back")
        tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "back")
        fill = hf.pipeline("fill-mask", model=again, tokenizer=tokenizer)
        found = fill(f"The river {tokenizer.mask_token} past the town.")
    assert not caplog.records
    assert len(found) == 5
    assert type(again) is type(model)
    expected = model.state_dict()
    assert again.state_dict().keys() == expected.keys()
    for key, tensor in again.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), expected[key].numpy())
    before = hf.AutoTokenizer.from_pretrained(folder)
    for first, second in itertools.pairwise(LINES[:4]):
        for given in ((first,), (first, second)):
            assert tokenizer(*given)["input_ids"] == before(*given)["input_ids"]


@pytest.mark.slow(ci=False)
@pytest.mark.parametrize("name", FORMATS)
def test_fine_tuning_goes_on_from_it_and_goes_out(theirs, hf, tmp_path, name):
    """The classifier there gives the probabilities that `predict` gives here."""
    _, folder = theirs(name)
    rows = "".join(f"{i % 2}\t{LINES[i % 3][: 20 + i]}\n" for i in range(40))
    (tmp_path / "train.tsv").write_text(f"label\ttext\n{rows}")
    tuned, text = tmp_path / "tuned", "Nobody crosses the old bridge."
    command(
        *("finetune", folder, "--train", tmp_path / "train.tsv", "--dev", 0.2),
        *("--output", tuned, "--num-epochs", 1, "--sequence-length", 32),
    )
    command("export", tuned, "--output", tmp_path / "out")
    answers = tmp_path / "answers.jsonl"
    command("predict", tuned, text, "--output", answers)
    ours = json.loads(answers.read_text().splitlines()[0])
    theirs_say = hf.pipeline("text-classification", str(tmp_path / "out"))(text)[0]
    assert str(ours["label"]) == theirs_say["label"]
    probability = max(ours["probabilities"].values())
    assert abs(probability - theirs_say["score"]) < 1e-5
