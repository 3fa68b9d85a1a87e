"""
Other ORMs, with the same lookup of the same rows. Django creates their tables,
and only the measured call is theirs.
"""

from datetime import UTC

from django.db import connection

from .contenders import Contender

# Columns whose values have other types than Django's, on some databases.
CONVERSIONS = {
    "active": bool,
    "added": lambda value: value if value.tzinfo else value.replace(tzinfo=UTC),
}


class OtherORM(Contender):
    """An ORM whose answers become instances of Django's model afterwards."""

    def answer(self, model, obj):
        values = {
            field.attname: getattr(obj, field.attname)
            for field in model._meta.concrete_fields
        }
        for name, convert in CONVERSIONS.items():
            values[name] = convert(values[name])
        return model(**values)


class SQLAlchemyCore(OtherORM):
    """select(table).where(…) on a connection in autocommit."""

    def __init__(self, name):
        super().__init__(name)
        import sqlalchemy

        self.sqlalchemy = sqlalchemy
        self.engine = sqlalchemy.create_engine(self.url(), isolation_level="AUTOCOMMIT")
        self.tables = {}  # model: table
        self.connection = self.engine.connect()

    def url(self):
        settings = connection.settings_dict
        drivers = {
            "sqlite": "sqlite",
            "postgresql": "postgresql+psycopg",
            "mysql": "mysql+mysqldb",
        }
        return self.sqlalchemy.URL.create(
            drivers[connection.vendor],
            username=settings["USER"] or None,
            password=settings["PASSWORD"] or None,
            host=settings["HOST"] or None,
            port=int(settings["PORT"]) if settings["PORT"] else None,
            database=str(settings["NAME"]),
        )

    def table(self, model):
        if model not in self.tables:
            self.tables[model] = self.make_table(model)
        return self.tables[model]

    def make_table(self, model):
        return self.sqlalchemy.Table(
            model._meta.db_table,
            self.sqlalchemy.MetaData(),
            autoload_with=self.engine,
        )

    def get(self, model, name):
        table = self.table(model)
        statement = self.sqlalchemy.select(table).where(table.c.name == name)
        return self.connection.execute(statement).one()

    def get_or_create(self, model, name, defaults):
        return self.get(model, name), False

    def drop(self):
        self.connection.close()
        self.engine.dispose()
        super().drop()


class SQLAlchemyORM(SQLAlchemyCore):
    """select(T).where(…).one() in a session without rows."""

    def __init__(self, name):
        super().__init__(name)
        from sqlalchemy import orm

        self.registry = orm.registry()
        self.session = orm.Session(self.connection)

    def make_table(self, model):
        table = super().make_table(model)
        mapped = type(model.__name__, (), {})
        self.registry.map_imperatively(mapped, table)
        return mapped

    def get(self, model, name):
        mapped = self.table(model)
        statement = self.sqlalchemy.select(mapped).where(mapped.name == name)
        obj = self.session.scalars(statement).one()
        self.session.expunge(obj)
        return obj

    def drop(self):
        self.session.close()
        super().drop()


class Peewee(OtherORM):
    """T.get() and T.get_or_create()."""

    def __init__(self, name):
        super().__init__(name)
        import peewee

        self.peewee = peewee
        self.database = self.connect()
        self.tables = {}  # model: class

    def connect(self):
        settings = connection.settings_dict
        name = str(settings["NAME"])
        if connection.vendor == "sqlite":
            return self.peewee.SqliteDatabase(name)
        options = {
            "user": settings["USER"],
            "password": settings["PASSWORD"],
            "host": settings["HOST"],
            "port": int(settings["PORT"]) if settings["PORT"] else None,
        }
        options = {key: value for key, value in options.items() if value}
        if connection.vendor == "postgresql":
            return self.peewee.PostgresqlDatabase(name, prefer_psycopg3=True, **options)
        return self.peewee.MySQLDatabase(name, **options)

    def table(self, model):
        if model not in self.tables:
            peewee, opts = self.peewee, model._meta
            meta = {"database": self.database, "table_name": opts.db_table}
            columns = {
                "Meta": type("Meta", (), meta),
                "id": peewee.BigAutoField(),
                "name": peewee.CharField(max_length=50, unique=True),
                "description": peewee.CharField(max_length=200),
                "price": peewee.DecimalField(max_digits=8, decimal_places=2),
                "active": peewee.BooleanField(),
                "added": peewee.DateTimeField(),
                "count": peewee.IntegerField(),
            }
            self.tables[model] = type(model.__name__, (peewee.Model,), columns)
        return self.tables[model]

    def get(self, model, name):
        table = self.table(model)
        return table.get(table.name == name)

    def get_or_create(self, model, name, defaults):
        return self.table(model).get_or_create(name=name, defaults=defaults)

    def drop(self):
        self.database.close()
        super().drop()
