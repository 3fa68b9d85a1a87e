"""Texts that differ in Python, and that the database treats as equal."""

from typing import Any

from django.utils.functional import cached_property

from ..writes import table_facts


class EqualTexts:
    """The steps of a Batch that find the texts that may be equal."""

    bulk: Any
    connection: Any
    identifying: Any
    first: dict[Any, int]

    @cached_property
    def has_doubtful_texts(self):
        """Return True if the database may treat two identities as equal."""
        return bool(self.doubtful_texts(self.first))

    def doubtful_texts(self, part):
        """
        Return {place: texts} for the identifying columns in which the database
        may treat some of these texts as equal.
        """
        doubtful = {}
        for place, field in enumerate(self.identifying.fields):
            texts = {each[place] for each in part if type(each[place]) is str}
            if len(texts) > 1 and not table_facts.are_distinct(
                self.bulk.table, field.column, texts
            ):
                doubtful[place] = sorted(texts)
        return doubtful

    def repeated(self, part):
        """
        Return {identity: the first identity that the database treats as
        equal}.
        """
        equals = {
            place: table_facts.first_equals(
                self.connection,
                self.bulk.model,
                self.identifying.fields[place].column,
                texts,
            )
            for place, texts in self.doubtful_texts(part).items()
        }
        if not equals:
            return {}
        first, repeated = {}, {}
        for identity in sorted(part, key=self.first.__getitem__):
            same = tuple(
                equals[place][value] if place in equals else value
                for place, value in enumerate(identity)
            )
            if same in first:
                repeated[identity] = first[same]
            else:
                first[same] = identity
        return repeated
