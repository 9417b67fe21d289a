"""A folder of text files for each class, such as `train/pos/1.txt`."""

import pathlib

from bert_jax.config import FileConfig
from bert_jax.data.labelled.decoding import read_text
from bert_jax.data.labelled.tables import Row, Table


def read_folders(path: pathlib.Path, cfg: FileConfig) -> Table:
    """The files of every folder in `path`, with the columns "text" and "label".

    The name of a folder is the label of its files.

    Files and folders whose names begin with a dot are left out. Files come in the order
    of their names, so that any machine gets the same order.

    Raises:
        ValueError: there are no such folders, a folder has folders in it, or columns are
            given.
    """
    if cfg.text not in ((), ("text",)) or cfg.label not in (
        None,
        "label",
    ):
        raise ValueError(
            f"{path} is a folder, whose classes are its folders, so "
            f"text={cfg.text} and label={cfg.label!r} would "
            "be ignored; leave --text and --label out."
        )
    rows = []
    inside = sorted(x for x in path.iterdir() if not x.name.startswith("."))
    loose = [x for x in inside if not x.is_dir()]
    for folder in (x for x in inside if x.is_dir()):
        files = sorted(x for x in folder.iterdir() if not x.name.startswith("."))
        for file in files:
            if file.is_dir():
                raise ValueError(
                    f"{file} is a folder inside of {folder}; expected "
                    f"{path}/CLASS/FILE. Give the folder that holds the classes."
                )
            text = read_text(file, cfg.encoding).text
            fields = {"text": text, "label": folder.name}
            rows.append(Row(f"file {folder.name}/{file.name}", fields))
    if not rows:
        raise ValueError(
            f"{path} is a folder without folders of text files; expected one for each "
            f"class, such as {path}/pos/1.txt. Give a file, or such a folder."
        )
    how = f"{cfg.encoding.upper()}, one file a text, folders are classes"
    if loose:
        how += f", {len(loose):,} files outside of the folders not read"
    return Table(path, ("text", "label"), rows, how)
