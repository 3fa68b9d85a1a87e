"""
The values that a related manager gives to new rows, as far as its queryset
shows them.

A related manager is a subclass of the model's default manager that Django
makes, and its methods call those of a queryset. So the package cannot override
a method of the related manager itself.
"""

from django.db import models, router


class Relation:
    """
    The related manager of a queryset, if it has one.

    ``row`` has its arguments for create(), ``values`` has the same by field.
    """

    def __init__(self, queryset):
        self.queryset = queryset
        self.row, self.values = {}, {}
        self.manager = None  # of a many-to-many relation
        instance = queryset._hints.get("instance")
        if instance is not None and queryset.query.is_empty():
            # Like Django's related managers.
            raise ValueError(
                f"{instance!r} needs to have a value for the field that its related "
                "rows refer to, before this relationship can be used."
            )
        if len(queryset._known_related_objects) == 1:
            self.find_foreign_key()
        else:
            if instance is not None:
                self.manager = many_to_many_manager(queryset, instance)
            if self.manager is None:
                self.find_generic_relation()

    def find_foreign_key(self):
        """Set the values that a foreign key's manager gives to new rows."""
        [(field, known)] = self.queryset._known_related_objects.items()
        if len(known) != 1:
            return
        [instance] = known.values()
        self.row = {field.name: instance}
        if isinstance(field, models.ForeignKey):
            self.values = {field: instance}
        else:
            self.values = {
                own: getattr(instance, its.attname) for own, its in field.related_fields
            }

    def find_generic_relation(self):
        """
        Set the values that a generic relation's manager gives to new rows.
        """
        queryset = self.queryset
        opts, equal = queryset.model._meta, equal_columns(queryset.query)
        for generic in opts.private_fields:
            if not (hasattr(generic, "ct_field") and hasattr(generic, "fk_field")):
                continue
            fields = [
                opts.get_field(generic.ct_field),
                opts.get_field(generic.fk_field),
            ]
            if equal.keys() >= set(fields):
                self.values = {field: equal[field] for field in fields}
                self.row = {f.attname: value for f, value in self.values.items()}
                if queryset._db == router.db_for_read(queryset.model):
                    # The manager has set the database for reading.
                    self.queryset = queryset.using(router.db_for_write(queryset.model))
                    self.queryset._for_write = True

    def add(self, objs):
        """Relate created rows to the manager's instance."""
        if self.manager is not None and objs:
            self.manager.add(*objs)


def equal_columns(query):
    """Return {field: value} of the conditions field = value."""
    return {
        child.lhs.target: child.rhs
        for child in query.where.children
        if getattr(child, "lookup_name", None) == "exact"
        and getattr(child.lhs, "alias", None) == query.base_table
        and hasattr(child.lhs, "target")
    }


def many_to_many_manager(queryset, instance):
    """Return the instance's manager that has made the queryset, or None."""
    opts = instance._meta
    names = [field.name for field in opts.many_to_many]
    names += [
        relation.get_accessor_name()
        for relation in opts.related_objects
        if relation.many_to_many
    ]
    targets = [
        getattr(getattr(child, "lhs", None), "target", None)
        for child in queryset.query.where.children
    ]
    for name in names:
        manager = getattr(instance, name)
        if manager.model is queryset.model and manager.source_field in targets:
            return manager
    return None
