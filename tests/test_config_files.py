"""Which file a config's name leads to, and what is said of a file that is none."""

import pathlib

import pytest

from bert_jax import cli
from bert_jax.commands.config_files import config_path, load_config
from bert_jax.config import FinetuneConfig, PretrainConfig

SHIPPED = pathlib.Path(__file__).parents[1] / "configs"
TRAP = "raise SystemExit('this file must not run')"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "trap", ["bert_tiny", "bert_tiny.py", "configs/bert_tiny.py", "configs/bert_tiny"]
)
def test_a_bare_name_is_a_shipped_config_whatever_the_folder_holds(folder, trap):
    (folder / trap).parent.mkdir(exist_ok=True)
    (folder / trap).write_text(TRAP)
    assert config_path("bert_tiny") == SHIPPED / "bert_tiny.py"
    assert isinstance(load_config("bert_tiny", PretrainConfig), PretrainConfig)


@pytest.mark.parametrize("own", ["mine", "mine.py", "configs/mine.py"])
def test_a_bare_name_of_an_own_file_is_refused_with_its_path(folder, own):
    (folder / own).parent.mkdir(exist_ok=True)
    (folder / own).write_text(TRAP)
    with pytest.raises(
        FileNotFoundError, match="no config of this name is shipped; there are bert_b"
    ) as error:
        load_config("mine", PretrainConfig)
    shown = "./mine" if own == "mine" else own
    assert str(error.value).endswith(f"give its path: {shown}")


@pytest.mark.parametrize("name", ["./mine", "mine.py", "sub/mine"])
def test_a_path_is_run(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    text = "from bert_jax.config import FinetuneConfig\ndef get_config():\n"
    (folder / name).write_text(f"{text}    return FinetuneConfig(seed=5)\n")
    assert load_config(name, FinetuneConfig).seed == 5


def test_a_path_is_never_looked_for_among_the_shipped_ones():
    with pytest.raises(FileNotFoundError, match="this file does not exist"):
        config_path("bert_tiny.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:\n", "mine.py:1: invalid syntax; expected a Python file"),
        ("x = 1\n", "mine.py: it defines no get_config"),
        ("def get_config():\n    return 3\n", "mine.py: get_config.. returned a int"),
        ("import nothing_like_this\n", "mine.py:1: ModuleNotFoundError: No module"),
        (
            "from bert_jax.config import ModelConfig\n"
            "def get_config():\n    return ModelConfig(hidden=3)\n",
            "mine.py:3: TypeError: .*unexpected keyword argument 'hidden'",
        ),
        (
            "from bert_jax.config import *\n"
            "def get_config():\n    return PretrainConfig(batch_size='8')\n",
            "mine.py",
        ),
        ("\0", "mine.py"),
    ],
    ids=["syntax", "nothing", "number", "import", "field", "type", "null byte"],
)
def test_what_is_no_config_is_one_sentence_with_its_line(folder, capsys, text, message):
    (folder / "mine.py").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config("mine.py", PretrainConfig)
    with pytest.raises(SystemExit) as ended:
        cli.main(["pretrain", "mine.py", "--output", "x"])
    assert ended.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_text_where_a_path_belongs_becomes_one(folder):
    (folder / "mine.py").write_text(
        "from bert_jax.config import *\n"
        "def get_config():\n    return PretrainConfig(data=DataConfig(dataset='ds'))\n"
    )
    made = load_config("mine.py", PretrainConfig)
    assert made.data.dataset == pathlib.Path("ds")
