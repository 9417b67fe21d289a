"""Markup is told from text that looks like it, counted, and removed if asked."""

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st
from source_files import read

from bert_jax.config import ReadOptions
from bert_jax.data.text.documents import ReadStats
from bert_jax.data.text.markup import count_markup, strip_markup, unescaped

STRIPPED = {
    "<p>One.</p><p>Two <b>bold</b> words.</p>": (6, "\nOne.\n\nTwo bold words.\n"),
    '<A HREF="x">Link</a><br/>next<hr >': (4, "Link\nnext\n"),
    "a <!-- b <i>c</i> --> d": (3, "a  d"),
    "a <!-- b": (0, "a <!-- b"),
    "a <!-- b <!-- c --> d": (1, "a  d"),
    "<script>if (a < b) {}</script>x<style>p {}</style>": (4, "\nx\n"),
    "<script>is never closed": (1, "\nis never closed"),
    "<ref>never <b>closed</b> either": (3, "never closed either"),
    'Fact.<ref name="x">Book, <i>p. 3</i></ref> More.<ref name="x" />': (
        5,
        "Fact. More.",
    ),
    "Tom &amp; Jerry&nbsp;&#8211; &lt;b&gt; &#x41;": (6, "Tom & Jerry\xa0– <b> A"),
    "AT&T; R&D, a &notit; b &copy c": (0, "AT&T; R&D, a &notit; b &copy c"),
    "std::vector<int> x; if (a<b && c>d) List<String>": (
        0,
        "std::vector<int> x; if (a<b && c>d) List<String>",
    ),
    "{{cite|{{a}} b}}Text {{c}}.": (2, "Text ."),
    "A } {{ b": (0, "A } {{ b"),
    "{{ a {{b}} c": (1, "{{ a  c"),
    "[[Paris|the city]] and [[Rome]], [[:Category:X]]": (
        3,
        "the city and Rome, :Category:X",
    ),
    "[[File:a.jpg|thumb|A [[cat]] here]]": (1, "A cat here"),
    "[[1, 2], [3, 4]] and x[[0]]": (0, "[[1, 2], [3, 4]] and x[[0]]"),
    "Plain text, 1 < 2 > 0.": (0, "Plain text, 1 < 2 > 0."),
}


@pytest.mark.parametrize("text", STRIPPED)
def test_markup_is_counted_and_removed(text):
    count, stripped = STRIPPED[text]
    assert strip_markup(text) == stripped
    assert count_markup(text, text.encode()) == count


def test_only_what_ends_with_a_semicolon_is_an_entity():
    assert unescaped("&lt;&#60;&amp;lt; &lt") == "<<&lt; &lt"
    assert html.unescape("a &notb") == "a ¬b", "what must not happen to text"
    assert unescaped("a &notb; &notb") == "a &notb; &notb"


def test_markup_is_kept_unless_asked_for(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("<b>One</b> &amp; all.\n\nTwo.\n\n<br>\n")
    kept, removed = ReadStats(), ReadStats()
    assert read(str(path), kept)[0].text == "<b>One</b> &amp; all."
    options = ReadOptions(markup="strip")
    documents = read(str(path), removed, options)
    assert [document.text for document in documents] == ["One & all.", "Two."]
    assert (kept.markup_documents, kept.markup_elements) == (2, 4)
    assert (removed.markup_documents, removed.markup_elements) == (2, 4)
    assert (kept.empty_documents, removed.empty_documents) == (0, 1)


def test_escaped_text_of_wikiextractor_is_judged_as_it_reads(tmp_path):
    (tmp_path / "wiki_00").write_text(
        '<doc id="1">\nA &lt;br&gt; B &amp;amp; C\n</doc>\n'
    )
    stats = ReadStats()
    [document] = read(f"files:{tmp_path}/wiki_00", stats)
    assert document.text == "A <br> B &amp; C"
    assert stats.markup_elements == 2


TOKENS = [
    *("<", ">", "<!--", "-->", "<script>", "</script>", "<ref>", "</ref>", "<b ", "&"),
    *("&amp;", "&#;", "&#55555;", "&#0;", "{{", "}}", "{", "[[", "]]", "a|b", " x "),
]


@given(text=st.lists(st.sampled_from(TOKENS), max_size=30).map("".join))
def test_text_without_markup_stays_as_it_is(text):
    stripped = strip_markup(text)
    assert (count_markup(text, text.encode()) == 0) <= (stripped == text)
    stripped.encode()


@pytest.mark.parametrize("token", TOKENS)
def test_no_text_takes_quadratic_time(token):
    """Which would be minutes here."""
    text = token * 60_000 + " <b" + " " * 60_000
    # Opened and never closed, or closed and never opened, or in deep levels.
    assert strip_markup(text).strip()[-2:] == "<b"
    assert count_markup(text, text.encode()) >= 0
