"""Turns docstrings with reStructuredText and section headings into plain prose."""

import inspect
import re
from typing import Any

_ITEM_SECTIONS = re.compile(
    r"((other|optional) )?parameters|returns?|yields|receives|raises|warns|attributes|"
    r"methods|args|arguments|keyword arg(ument)?s|fields|properties|exceptions"
)
_DROPPED_SECTIONS = re.compile(r"references?|see also|bibliography|citations?")
_PLAIN_SECTIONS = re.compile(r"notes?|examples?|(example )?usage|warnings?|description")
_KEPT_DIRECTIVES = re.compile(
    r"note|warning|tip|important|caution|attention|hint|deprecated|version(chang|add)ed"
)
_UNDERLINE = re.compile(r"([=\-~`^*#\"'+._])\1{2,}\s*$")
_TABLE_BORDER = re.compile(r"[=\-]{2,}(\s+[=\-]{2,})+\s*$")
_GRID_ROW = re.compile(r"(\+[-=+]+\+?|\|.*\|)$")
_DIRECTIVE = re.compile(r"\.\.\s+([\w:-]+)::\s*(.*)")
_VERSION = re.compile(r"((NumPy|SciPy|version) )?v?\d+(\.\w+)*[.:,]?\s*", re.I)
_OPTION = re.compile(r":[\w-]+:(\s|$)")
_MARK = re.compile(  # bullets, fields, and tables of a name and two spaces or more
    r"([-*+•]|\(?\d{1,2}[.)]|\([a-z]\)|#\.)\s+(?=\S)|"
    r":(param|arg|keyword|ivar|cvar|returns?|raises|yields)[^:]*:\s+|"
    r"['\w*]+(, ['\w*]+)* --? (?=\S)|"
    r"[\w.()*\[\]]*\w[()*\]]*:?\s{2,}(?:-- )?(?=\S+ )"
)
_SECTION = re.compile(r"[A-Z][A-Za-z ]{2,24}:$")
_NAME = r"[`\"'*]{0,3}[\w.]+[`\"']{0,2}"
_ITEM = re.compile(rf"{_NAME}(,\s*{_NAME})*(\s*\(.*?\))?(\s?:|\s--?)\s+(?=\S)")
_CITATION = r"(?:(?:,|,? and)?\s*\[[\w#*, -]{1,20}\]_)"
_MARKUP: tuple[tuple[str, Any], ...] = (
    (r":math:`([^`]*)`", lambda match: _math_as_text(match[1])),
    (r"\$([^$\n]{1,80})\$", lambda match: _math_as_text(match[1])),
    (r":[\w:.+-]+:`([^`<]*?)\s*<[^`>]*>`", r"\1"),
    (r":[\w:.+-]+:`~(?:[\w.]*\.)?(\w+)(?:\(\))?`", r"\1"),
    (r":[\w:.+-]+:`[!~.]*([^`]*)`", r"\1"),
    (rf"\b([Ii]n|[Bb]y|[Ff]rom|[Ss]ee|[Oo]f|[Tt]o) {_CITATION}+", r"\1 the literature"),
    (rf"{_CITATION}+", ""),
    (r"`([^`<]*?)\s*<[^`>]*>`_{0,2}", r"\1"),
    (r"!?\[([^\]\n]+)\]\((?:https?|#|/|\.)[^)\s]*\)", r"\1"),
    (r"\s*<(?:https?|mailto):[^>]*>", ""),
    (r"``([^`]*)``", r"\1"),
    (r"`[~!.]?([^`]*)`_{0,2}", r"\1"),
    (r"(?<![\w*])\*{1,2}(?=[^\s*])([^*\n]+?)(?<=\S)\*{1,2}(?![\w*])", r"\1"),
    (r"(?<!\w)\|(\w+)\|(?!\w)", r"\1"),
    (r"\\([*_`|\\ ])", r"\1"),
    (r"\s+([,.;:!?)])(?=\s|$)", r"\1"),
)
_MARKUP_RULES = tuple((re.compile(pattern), new) for pattern, new in _MARKUP)
_MATH_STYLE = re.compile(
    r"\\(math(bf|rm|cal|bb|it)|boldsymbol|text|operatorname|hat|tilde|bar|vec|left|right|"
    r"big|quad|displaystyle|[,;!])\s*"
)
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_MATH_SIGNS = {
    "times": "x",
    "cdot": "*",
    "leq": "<=",
    "geq": ">=",
    "le": "<=",
    "ge": ">=",
}
_ENGLISH_WORD = re.compile(r"[(\"'“‘]*[A-Za-z]+(?:['’-][A-Za-z]+)*[)\"'”’.,;:!?]*$")
_NOT_PROSE = re.compile(
    r"\(self\b|^@\w|^#|^\w+ = |=.*\(.*=|%\(\w+\)|^(import|from|def|class|assert) .*[=(:.]|"
    r"^From \S+ import |^Import \S+( as \w+)?\.?$|"
    r"(?i:^(copyright|licensed under)\b|all rights reserved)"
)
_COMMON_WORD = re.compile(
    r"\b(an?|the|of|to|is|are|in|for|and|or|be|that|this|with|by|from|if|it|as|on|not|can|"
    r"will|at|when|which|used|has|have|may|must|should|each|all|any|its|into|than)\b",
    re.I,
)


def prose(docstring: str) -> tuple[str, ...]:
    """The paragraphs of a docstring that read as English, each as one line.

    Code, doctests, tables, headings, references, and the names and types of parameters
    are left out, and markup is removed.
    """
    lines = _without_blocks(inspect.cleandoc(docstring).expandtabs().split("\n"))
    found = (_without_markup(paragraph) for paragraph in _paragraphs(lines))
    return tuple(paragraph for paragraph in found if _reads_as_prose(paragraph))


def _without_blocks(lines: list[str]) -> list[str]:
    """Empties the lines of doctests, code, tables and directives, but not of notes."""
    kept: list[str] = []
    i = 0
    while i < len(lines):
        text, indent = lines[i].strip(), _indent(lines[i])
        i += 1
        directive = _DIRECTIVE.match(text)
        if directive and _KEPT_DIRECTIVES.fullmatch(directive[1]):
            note = _VERSION.sub("", directive[2], count=1)
            # The first line gets the indentation of the lines that follow, so that
            # they form one paragraph.
            body = _indent(lines[i]) if i < len(lines) and lines[i].strip() else 0
            kept += ["", " " * (body if body > indent else indent + 3) + note]
            continue
        if text.startswith((">>>", "In [")):
            while i < len(lines) and lines[i].strip():
                i += 1
        elif text.startswith("```"):
            while i < len(lines) and "```" not in lines[i]:
                i += 1
            i += 1
        elif _TABLE_BORDER.match(text):
            last = [
                j for j in range(i, len(lines)) if _TABLE_BORDER.match(lines[j].strip())
            ]
            i = last[:2][-1] + 1 if last else i
        elif text.endswith("::") or re.match(r"\.\.(\s|$)", text):
            if not text.startswith("..") and text != "::":
                kept.append(re.sub(r"(?<!\.)::$", ":", lines[i - 1].rstrip()))
            while i < len(lines) and (
                not lines[i].strip() or _indent(lines[i]) > indent
            ):
                i += 1
        elif not _GRID_ROW.match(text) and (
            not _OPTION.match(text) or _MARK.match(text)
        ):
            kept.append(lines[i - 1])
            continue
        kept.append("")
    return kept


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _paragraphs(lines: list[str]) -> list[str]:
    """Joins wrapped lines to paragraphs, in NumPy's and in Google's docstring style."""
    found: list[list[str]] = []
    section, is_google = "", False
    section_indent = item_indent = start_indent = -1
    starts, hangs = True, False
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        text, indent, next_text = line.strip(), _indent(line), following.strip()
        if not text or _UNDERLINE.match(text):
            starts = True
            continue
        if is_google and indent <= section_indent:
            section, is_google, starts = "", False, True
        deepens = bool(next_text) and _indent(following) > indent
        title = text.rstrip(":").lower()
        google = (
            bool(_SECTION.match(text))
            and (deepens or not next_text)
            and any(
                p.fullmatch(title)
                for p in (_ITEM_SECTIONS, _DROPPED_SECTIONS, _PLAIN_SECTIONS)
            )
        )
        if google or (next_text and _UNDERLINE.match(next_text)):
            section, is_google, section_indent = title, google, indent
            item_indent, starts = -1, True
            continue
        if _DROPPED_SECTIONS.fullmatch(section):
            continue
        item_indent = indent if item_indent < 0 else item_indent
        is_item = bool(_ITEM_SECTIONS.fullmatch(section)) and indent <= item_indent
        mark = _MARK.match(text)
        if is_item and not is_google and not mark and (deepens or " : " in text):
            starts = True  # The line is a parameter's name and type.
            continue
        if mark:
            text = text[mark.end() :]
        name = _ITEM.match(text) if is_item and is_google else None
        if name:
            text = text[name.end() :]
        starts = (
            starts
            or bool(mark or name)
            or indent < start_indent
            or (hangs and indent == start_indent)
            or (not hangs and indent > start_indent and not text[0].islower())
        )
        if starts:
            found.append([])
            start_indent, starts = indent, False
            hangs = bool(mark or name) and not section.startswith(("return", "yield"))
        found[-1].append(text)
    return [" ".join(paragraph) for paragraph in found]


def _math_as_text(math: str) -> str:
    math = _FRACTION.sub(r"\1/\2", _MATH_STYLE.sub("", math))
    math = re.sub(r"\\([A-Za-z]+)", lambda m: f" {_MATH_SIGNS.get(m[1], m[1])}", math)
    return math.replace("{", "").replace("}", "")


def _without_markup(text: str) -> str:
    if any(sign in text for sign in "`$[*<|\\") or " ." in text or " ," in text:
        for pattern, replacement in _MARKUP_RULES:
            text = pattern.sub(replacement, text)
    text = " ".join(text.split()).strip(" -|,;")
    first = text.split(" ", 1)[0].rstrip(",.;:")
    if first.islower() and first.isalpha() and (len(first) > 1 or first == "a"):
        text = text[0].upper() + text[1:]
    ends = text[-1:].isalnum() or (text[-1:] in ")\"'" and text[-2:-1] not in ".!?")
    return f"{text}." if ends else text.replace(".::", ".")


def _reads_as_prose(text: str) -> bool:
    words = text.split()
    return (
        len(words) >= 4
        and sum(bool(_ENGLISH_WORD.match(word)) for word in words) >= 0.65 * len(words)
        and (len(words) < 8 or _COMMON_WORD.search(text) is not None)
        and not _NOT_PROSE.search(text)
    )
