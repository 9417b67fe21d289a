"""A dataset whose metadata names foreign classes is refused before they are imported."""

import json
import sys

import pytest
import tensorflow_datasets as tfds
from prepared_corpus import copy_of

from bert_jax.data.prepared.dataset import open_dataset
from bert_jax.data.text.sources import open_source
from bert_jax.data.tfds_builder import MetadataError, open_builder

MODULE = "imported_by_metadata"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that can be imported; the fixture is its name in `sys.modules`."""
    (tmp_path / f"{MODULE}.py").write_text("Text = None")
    monkeypatch.syspath_prepend(tmp_path)
    yield MODULE
    sys.modules.pop(MODULE, None)


@pytest.fixture
def attacked(dataset):
    """The features.json of the dataset, whose text is put back after the test."""
    path = dataset / "features.json"
    before = path.read_text()
    yield path
    path.write_text(before)


CORE = "tensorflow_datasets.core.features"


def _dictionary(key: str, feature: dict) -> dict:
    """A features.json with one feature."""
    name = f"{CORE}.features_dict.FeaturesDict"
    return {key: name, "featuresDict": {"features": {"key": feature}}}


def _older(name: str) -> dict:
    content = {"key": {"type": name, "content": {}}}
    return {"type": f"{CORE}.features_dict.FeaturesDict", "content": content}


def _nested(name: str) -> dict:
    """In the JSON text of a sequence, from which TFDS reads another feature."""
    inner = {"feature": {"type": name, "content": {}}, "length": None}
    sequence = {
        "pythonClassName": f"{CORE}.sequence_feature.Sequence",
        "jsonFeature": {"json": json.dumps(inner)},
    }
    return _dictionary("pythonClassName", sequence)


ATTACKS = {
    "current": lambda name: _dictionary(
        "pythonClassName", {"pythonClassName": name, "text": {}}
    ),
    "protobuf": lambda name: _dictionary(
        "python_class_name", {"python_class_name": name, "text": {}}
    ),
    "older": _older,
    "nested": _nested,
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_foreign_classes_are_not_imported(dataset, module, attacked, attack):
    attacked.write_text(json.dumps(ATTACKS[attack](f"{module}.Text")))
    with pytest.raises(MetadataError, match=rf"names the class '{module}\.Text'"):
        open_builder(dataset)
    with pytest.raises(MetadataError):
        open_dataset(dataset).load_split("train")
    with pytest.raises(MetadataError):
        open_source(f"tfds:{dataset}:train:key")
    assert module not in sys.modules
    # TFDS itself does import the module, so the attack is real.
    with pytest.raises(Exception, match=r"."):
        tfds.builder_from_directory(str(dataset))
    assert module in sys.modules


def test_dataset_info_imports_no_class_either(dataset, module, tmp_path):
    """TFDS takes features from dataset_info.json, where it has them, and not from their file."""
    path = copy_of(dataset, tmp_path) / "dataset_info.json"
    feature = {"pythonClassName": f"{module}.Text", "text": {}}
    path.write_text(json.dumps({**json.loads(path.read_text()), "features": feature}))
    with pytest.raises(MetadataError, match=rf"names the class '{module}\.Text'"):
        open_builder(path.parent)
    assert module not in sys.modules
    with pytest.raises(Exception, match=r"."):
        tfds.builder_from_directory(str(path.parent))
    assert module in sys.modules


def test_features_of_tfds_are_let_through(dataset, tmp_path):
    features = tfds.features
    kinds = {
        # A feature can have the name of a key that holds a class.
        "type": features.Text(),
        "labels": features.Sequence({"label": features.ClassLabel(names=["a", "b"])}),
        "image": features.Image(),
        "pair": features.Translation(["de", "en"]),
    }
    path = copy_of(dataset, tmp_path) / "features.json"
    path.write_text(json.dumps(features.FeaturesDict(kinds).to_json()))
    assert set(open_builder(path.parent).info.features) == set(kinds)
