"""The project's sentences have none of the habits that tests.prose finds."""

import pytest

from .. import prose

HABITS = {
    "open": "Of the managers only one caches.",
    "for": "The hint may be wrong, for every hit is compared.",
    "actor": "The row that nobody reads is evicted.",
    "none": "A time that is none is refused.",
    "verb": "The cache tells the reader about it.",
    "inverted": "Has it not moved, then no writer has been through.",
    "idiom": "The cache that is called as the model has its rows.",
}
PLAIN = [
    "Only one of the managers caches.",
    "It waits for the lock, for 30 seconds at most.",
    "There is none.",
    "Python can tell apart both.",
    "If the clock has not moved, no writer has released a row.",
    'The word "nobody" and ``tell`` are quoted.',
    "Is it slow? It depends on the network.",
    "It is code::\n\n    nobody tells",
    ".. code-block:: python\n\n    # nobody tells\n\nText.",
]


def found(name, text):
    return [(number, words) for number, _, words in prose.find(name, text)]


def test_each_habit_has_an_example():
    habits = [habit for text in HABITS.values() for _, habit, _ in prose.find("", text)]
    assert habits == list(prose.HABITS)


@pytest.mark.parametrize("text", PLAIN)
def test_plain_sentence(text):
    assert found("page.rst", text) == []


def test_sentence_over_two_lines():
    [(number, words)] = found("page.rst", "Title\n=====\n\nA row is\nnone here.\n")
    assert (number, words) == (4, "A row is none here.")


def test_python():
    text = '''
"""
Docstring.

The row is none.
"""
def first():  # nobody
    x = "hears"
    # The cache
    # forgets.
    return f"It tells {x}."
y = 1  # The first
# Of the second no more is known.
'''
    assert [number for number, _ in found("module.py", text)] == [5, 7, 10, 11, 13]


def test_template():
    text = '<p class="nobody x">\n{{ told }} The cache tells.</p>'
    assert found("page.html", text) == [(2, "The cache tells.")]


def test_files_are_read(capsys):
    assert "README.rst" in prose.files()
    assert prose.main(["LICENSE"]) is False
    assert capsys.readouterr().out == "0 found\n"


@pytest.mark.slow
def test_project(capsys):
    assert prose.main([]) is False, capsys.readouterr().out
