"""Counts or removes HTML tags, comments and entities, and left-over wiki markup.

The time is linear in the length of the text, whatever it holds. Tags with unknown names
are kept, because `std::vector<int>` is text.
"""

import html
import html.entities
import re

_INLINE = (
    *("a", "abbr", "acronym", "b", "bdi", "bdo", "big", "blink", "cite", "code"),
    *("data", "del", "dfn", "em", "font", "i", "ins", "kbd", "label", "mark", "math"),
    *("nobr", "nowiki", "q", "rp", "rt", "ruby", "s", "samp", "small", "span"),
    *("strike", "strong", "sub", "sup", "time", "tt", "u", "var", "wbr"),
)
_BLOCK = (
    *("address", "applet", "area", "article", "aside", "audio", "base", "basefont"),
    *("blockquote", "body", "br", "button", "canvas", "caption", "center", "col"),
    *("colgroup", "datalist", "dd", "details", "dialog", "dir", "div", "dl", "dt"),
    *("embed", "fieldset", "figcaption", "figure", "footer", "form", "frame"),
    *("frameset", "gallery", "h1", "h2", "h3", "h4", "h5", "h6", "head", "header"),
    *("hgroup", "hr", "html", "iframe", "img", "input", "legend", "li", "link"),
    *("main", "map", "marquee", "menu", "meta", "meter", "nav", "noframes"),
    *("noscript", "object", "ol", "optgroup", "option", "output", "p", "param"),
    *("picture", "poem", "pre", "progress", "references", "section", "select"),
    *("source", "summary", "svg", "table", "tbody", "td", "template", "textarea"),
    *("tfoot", "th", "thead", "title", "tr", "track", "ul", "video"),
)
# What stands between an opening and a closing tag of these is not prose.
_WITH_CONTENT = ("ref", "script", "style")

_NAMES = "|".join([*_INLINE, *_BLOCK, *_WITH_CONTENT])
# An attribute begins with a letter, so there is no tag in "a<b && c>d".
_TAG = re.compile(rf"<(/?)({_NAMES})(?:\s++[a-z:_@][^<>]*+|\s*+/?)>", re.IGNORECASE)
_COMMENT = re.compile("<!--|-->")
_ENTITY = re.compile(
    r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});"
)
_TEMPLATE = re.compile(r"\{\{|\}\}")
# A link begins with a letter, ":" or "#"; [[1, 2], [3, 4]] is not a link.
_LINK = re.compile(r"\[\[(?=[^\W\d]|[:#])(?:[^\[\]|]*\|)*([^\[\]|]*)\]\]")
# So deep may links stand in the captions of links; what is deeper is kept.
_MAX_LINK_DEPTH = 4


def count_markup(text: str, utf8: bytes) -> int:
    """Number of known tags, comments, known entities, wiki templates and wiki links.

    Args:
        text: the text.
        utf8: the same in UTF-8, in which one byte is found much faster.
    """
    count = 0
    if b"<" in utf8:
        count += len(_TAG.findall(text)) + len(_pairs(_COMMENT, "<!--", text))
    if b"&" in utf8:
        count += sum(map(_is_entity, _ENTITY.findall(text)))
    if b"{" in utf8:
        count += len(_pairs(_TEMPLATE, "{{", text))
    if b"[" in utf8:
        count += len(_LINK.findall(text))
    return count


def strip_markup(text: str) -> str:
    """The text without the markup that `count_markup` counts.

    Scripts, styles, footnotes, comments and templates are removed with their content.
    Tags that begin or end a block become a newline. A link becomes its caption.
    Entities become their characters as the last step, so that a text about markup
    keeps the markup that it spells with entities.
    """
    if "<" in text:
        text = _without(_pairs(_COMMENT, "<!--", text), text)
        text = _without_tags(text)
    text = _without(_pairs(_TEMPLATE, "{{", text), text)
    for _ in range(_MAX_LINK_DEPTH):
        if "[[" not in text:
            break
        text = _LINK.sub(r"\1", text)
    return unescaped(text)


def unescaped(text: str) -> str:
    """The text with known entities, ended by a semicolon, as the characters they name."""
    if "&" not in text:
        return text
    return _ENTITY.sub(_character, text)


def _character(entity: re.Match[str]) -> str:
    return html.unescape(entity[0]) if _is_entity(entity[0]) else entity[0]


def _is_entity(entity: str) -> bool:
    return entity[1] == "#" or entity[1:] in html.entities.html5


def _pairs(
    delimiter: re.Pattern[str], opening: str, text: str
) -> list[tuple[int, int]]:
    """(begin, end) of the outermost pairs of an opening and its closing, in order."""
    pairs: list[tuple[int, int]] = []
    if opening not in text:
        return pairs
    opened: list[int] = []
    for match in delimiter.finditer(text):
        if match[0] == opening:
            # Templates nest, comments do not.
            if opening == "{{" or not opened:
                opened.append(match.start())
        elif opened:
            start = opened.pop()
            while pairs and pairs[-1][0] > start:
                pairs.pop()
            pairs.append((start, match.end()))
    return pairs


def _without(spans: list[tuple[int, int]], text: str) -> str:
    kept, position = [], 0
    for start, end in spans:
        kept.append(text[position:start])
        position = end
    return "".join([*kept, text[position:]])


def _without_tags(text: str) -> str:
    kept, position = [], 0
    tags = list(_TAG.finditer(text))
    # The content of an element is removed only if its closing tag follows.
    last_closing = {tag[2].lower(): tag.start() for tag in tags if tag[1]}
    skipping = ""
    for tag in tags:
        name = tag[2].lower()
        if not skipping:
            kept.append(text[position : tag.start()])
            kept.append("" if name in _INLINE or name == "ref" else "\n")
            opens = not tag[1] and not tag[0].endswith("/>")
            if name in _WITH_CONTENT and opens:
                skipping = name if last_closing.get(name, -1) > tag.start() else ""
        elif tag[1] and name == skipping:
            skipping = ""
        position = tag.end()
    return "".join([*kept, text[position:]])
