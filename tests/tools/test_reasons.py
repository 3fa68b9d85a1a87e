"""Each source of a hit and each reason of a miss has its words, once."""

import pytest

from getorcreateplus.diagnosis.reasons import HITS, MISSES
from getorcreateplus.signals import Reason, Source

from ..support.repository import ROOT


def documented(name):
    """Return a page of the docs as one line, as a reader sees its words."""
    text = (ROOT / "docs" / name).read_text()
    return " ".join(text.replace("``", "").split())


def test_each_source_has_its_words():
    assert [*HITS] == [*Source]
    assert all(HITS.values())


def test_each_reason_has_its_words():
    assert [*MISSES] == [*Reason]
    for words in MISSES.values():
        assert words.sentence
        assert words.remedy
        assert words.next


def test_no_two_reasons_have_the_same_words():
    sentences = [*HITS.values(), *(words.sentence for words in MISSES.values())]
    assert len(set(sentences)) == len(sentences)


@pytest.mark.parametrize("page", ["signals.rst", "panel.rst"])
@pytest.mark.parametrize("member", [*Source, *Reason], ids=lambda member: member.name)
def test_docs_have_the_same_words(page, member):
    sentence = HITS[member] if member in HITS else MISSES[member].sentence
    assert f" {member} {sentence.rstrip('.')}" in documented(page)
