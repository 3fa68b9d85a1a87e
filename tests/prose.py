"""
Find the seven habits of prose that make a reader read a sentence twice.

    python -m tests.prose [FILE ...]

Reads the paragraphs of documents, the docstrings, comments and messages of
Python, and the text of templates. Without a file it reads the whole project.
It exits with 1 if it finds any, and prints where, which habit, and the words.
"""

import io
import re
import subprocess
import sys
import tokenize
from bisect import bisect_right
from itertools import accumulate, groupby

from .support.repository import ROOT

START = r"(?:\A|(?<=[.:;?!(] )|(?<=^[*#-] ))"
VERB = r"(?:is|are|was|were|has|have|had|may|can|could|would|will|does|do|knows?)"

HABITS = {
    'A sentence that opens with "Of": put the subject first.': (
        rf"{START}Of (?!course\b)"
    ),
    '"For" where "because" is meant.': (
        r"(?<=[,;:]) for (?:"
        r"(?:it|they|there|nobody|he|she|we|who|these|those|its|their|nothing)\b"
        r"|(?:a|an|the|all|each|every|no|only|this|that)"
        rf" (?:(?!that|which)\w+ ){{1,3}}{VERB}\b)"
    ),
    "Nobody, whoever, whatever: name the actor.": (
        rf"\b(?:nobody|whoever|whatever|whichever)\b|{START}Who \w+(?: \w+)*[^?\w]"
    ),
    '"Is none": say what it is not.': (
        r"(?<!\b[Tt]here )\b(?:is|are|was|were|be|been) none\b"
    ),
    "Software that tells, hears, forgets: say notify, detect, invalidate.": (
        r"\b(?:tell|tells|told|telling|hear|hears|heard)\b(?! apart)"
        r"|\b(?:forget|forgets|forgot|forgotten|forgetting)\b|\bknows? of\b"
        r"|\bask(?:s|ed|ing)? (?:of|the database)\b|\basked again\b"
    ),
    "An inverted condition: begin with if.": (
        rf"{START}(?:Has|Had|Were|Nor|Should|Does|Is|Are)"
        r" [^.?!;]*[,;](?: then)? \w[^?]*?(?:[.;!]|\Z)"
    ),
    '"Called as", "as ever", "lets go": say named after, as before, expires.': (
        r"\bcalled as\b|\bas ever\b|\blet(?:s|ting)? go\b"
    ),
}
PATTERNS = {habit: re.compile(pattern) for habit, pattern in HABITS.items()}

# Where the words stand for themselves.
QUOTED = re.compile(r"``.+?``|`[^`<>]+ <[^`<>]+>`_+|\"[^\"]+\"|“[^”]+”|:\w+:`.+?`")
CODE = re.compile(r"( *)(?:\.\. (?:code-block|image|toctree|graphviz|raw)::.*|.*::)\Z")
DELIMITERS = re.compile(r"\A\w*(\"\"\"|'''|\"|')|(\"\"\"|'''|\"|')\Z")
# Python 3.11 has an f-string in one piece.
STRINGS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
SUFFIXES = (".py", ".pyi", ".rst", ".html", ".md", ".yml")
# They have the habits as examples, or are others' words.
NOT_OURS = ("CODE_OF_CONDUCT", "tests/prose.py", "tests/project/test_prose.py")


def paragraphs_of_document(text):
    """Yield (line number, lines) of each paragraph that is not code."""
    indent = None
    lines = text.splitlines()
    blocks = groupby(enumerate(lines, 1), key=lambda item: bool(item[1].strip()))
    for filled, block in blocks:
        if not filled:
            continue
        numbered = list(block)
        number, first = numbered[0]
        if indent is not None and len(first) - len(first.lstrip()) > indent:
            continue
        indent = None
        yield number, [line for _, line in numbered]
        if match := CODE.match(numbered[-1][1]) or CODE.match(first):
            indent = len(match[1])


def paragraphs_of_python(text):
    """Yield (line number, lines) of comments, and of strings with a space."""
    comments = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        number = token.start[0]
        if token.type == tokenize.COMMENT:
            # One beside code does not go on in the line below.
            if comments and comments[-1][0] != (number - 1, token.start[1]):
                yield from joined(comments)
                comments = []
            comments.append((token.start, token.string.lstrip("#: ")))
        elif token.type not in (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT):
            yield from joined(comments)
            comments = []
            if token.type in STRINGS:
                string = DELIMITERS.sub("", token.string)
                if " " in string:
                    for first, lines in paragraphs_of_document(string):
                        yield number + first - 1, lines
    yield from joined(comments)


def joined(comments):
    if comments:
        yield comments[0][0][0], [line for _, line in comments]


def paragraphs_of_template(text):
    """Yield (line number, lines) of the text between tags."""
    for match in re.finditer(r"(?:\A|(?<=[>}]))[^<>{}]*[a-z] [^<>{}]*", text):
        yield text.count("\n", 0, match.start()) + 1, match[0].splitlines()


def find(name, text):
    """Yield (line number, habit, words) of each place in this file."""
    readers = {".py": paragraphs_of_python, ".pyi": paragraphs_of_python}
    readers |= {".html": paragraphs_of_template}
    suffix = name[name.rfind(".") :]
    for number, indented in readers.get(suffix, paragraphs_of_document)(text):
        lines = [line.strip() for line in indented]
        starts = [0, *accumulate(len(line) + 1 for line in lines)]
        paragraph = QUOTED.sub(lambda match: "x" * len(match[0]), " ".join(lines))
        for habit, pattern in PATTERNS.items():
            for match in pattern.finditer(paragraph):
                line = bisect_right(starts, match.start()) - 1
                words = paragraph[max(match.start() - 30, 0) : match.end() + 30]
                yield number + line, habit, words


def files():
    """Return the names of the files in the project that have prose."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [
        name
        for name in listed.stdout.splitlines()
        if name.endswith(SUFFIXES) and not name.startswith(NOT_OURS)
    ]


def main(names):
    found = 0
    for name in names or files():
        for number, habit, words in find(name, (ROOT / name).read_text()):
            found += 1
            print(f"{name}:{number}: {habit}\n    {words}")
    print(f"{found} found")
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
