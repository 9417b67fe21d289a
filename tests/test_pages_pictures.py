"""Pictures of the pages show what their sources say."""

import html
import re

from test_command_lines import ROOT


def test_the_picture_of_the_data_is_drawn_from_its_source():
    source = (ROOT / "docs/data_flow.dot").read_text("utf-8")
    picture = html.unescape((ROOT / "docs/data_flow.svg").read_text("utf-8"))
    labels = re.findall(r'label = "(.*?)"', source)
    lines = [line.strip() for label in labels for line in label.split(r"\n")]
    drawn = re.findall(r"<text[^>]*>(.*?)</text>", picture)
    assert sorted(lines) == sorted(line.strip().replace("\xa0", "") for line in drawn)
    folders = {line.rstrip("/") for line in lines if line.endswith("/")}
    assert folders
    for folder in (part for line in folders for part in line.split("/, ")):
        assert (ROOT / "bert_jax" / folder).is_dir()
