"""
Are two tables equal, row by row? Primary keys and time stamps are left out,
because they differ between two imports of the same rows. A foreign key is
compared by the fields that identify the row that it leads to.
"""

from collections import Counter


def fields(model):
    return [
        field
        for field in model._meta.concrete_fields
        if not field.primary_key and field.name not in ("created", "modified")
    ]


def identity(model):
    """Return the fields that identify a row: all, if no others do."""
    for field in fields(model):
        if field.unique:
            return [field]
    for constraint in model._meta.total_unique_constraints:
        return [model._meta.get_field(name) for name in constraint.fields]
    return fields(model)


def columns(of):
    """Return names for values_list()."""
    names = []
    for field in of:
        if field.is_relation:
            below = columns(identity(field.related_model))
            names += [f"{field.name}__{name}" for name in below]
        else:
            names.append(field.name)
    return names


class Comparison:
    """The rows that only `model` or only its `twin` has."""

    def __init__(self, model, twin):
        self.model = model
        self.key = columns(identity(model))
        self.values = [name for name in columns(fields(model)) if name not in self.key]
        ours, theirs = self.rows(model), self.rows(twin)
        self.count = len(ours)
        # They are equal as a rule, and that is cheaper to find out than the
        # difference.
        if ours == theirs:
            self.ours = self.theirs = Counter()
        else:
            self.ours = Counter(ours) - Counter(theirs)
            self.theirs = Counter(theirs) - Counter(ours)

    def rows(self, model):
        # Sorted here: collations of databases find some names equal.
        rows = model._base_manager.values_list(*self.key, *self.values)
        return sorted(rows.iterator(chunk_size=10_000))

    def differences(self, name, twin_name):
        """
        Return a sentence for each row that differs. `name` and `twin_name`
        are the contenders that have these rows.
        """
        size = len(self.key)
        ours = {row[:size]: row[size:] for row in self.ours}
        theirs = {row[:size]: row[size:] for row in self.theirs}
        sentences = []
        for key in sorted(ours | theirs):
            row = f"{self.model._meta.object_name} {text(self.key, key)}"
            if key not in theirs:
                sentences.append(f"{row}: only in {name}")
            elif key not in ours:
                sentences.append(f"{row}: only in {twin_name}")
            else:
                changed = [
                    (column, value, twin)
                    for column, value, twin in zip(
                        self.values, ours[key], theirs[key], strict=True
                    )
                    if value != twin
                ]
                names, values, twins = zip(*changed, strict=True)
                sentences.append(
                    f"{row}: {text(names, values)} in {name}, "
                    f"{text(names, twins)} in {twin_name}"
                )
        return sentences


def text(names, values):
    return ", ".join(
        f"{name}={value!r}" for name, value in zip(names, values, strict=True)
    )
