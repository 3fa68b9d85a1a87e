"""The operations, the contenders, and what each is compared with."""

from typing import NamedTuple


class Operation(NamedTuple):
    title: str
    calls: int  # in one round


class Contender(NamedTuple):
    label: str
    process: str
    operations: list
    beside: tuple = ()  # compared with the first of these that was measured


class Case(NamedTuple):
    """One operation of one contender."""

    operation: str
    contender: str


OPERATIONS = {
    "hit": Operation("get_or_create() of a cached row", 200),
    "async-hit": Operation("aget_or_create() of a cached row", 200),
    "large": Operation(
        "the same in a table of 1,000,000 rows, with 100,000 entries in the cache", 200
    ),
    "miss": Operation("get_or_create() of a row that is not cached", 50),
    "existing": Operation("get_or_create() of a row in the database, no cache", 200),
    "get": Operation("get() of a row in the database, no cache", 200),
    "create": Operation("get_or_create() creates, 50 rows in a transaction", 50),
    "autocommit": Operation("get_or_create() creates, in autocommit", 50),
    "update_or_create": Operation("update_or_create() of a row that exists", 50),
    "update-atomic": Operation(
        "update_or_create() of a row that exists, 50 rows in a transaction", 50
    ),
    "save": Operation("save() of a cached row", 50),
    "save-atomic": Operation("save() of a cached row, 50 rows in a transaction", 50),
    "update": Operation("update() of 10,000 rows", 1),
    "bulk": Operation("10,000 rows in a transaction, half of them there", 1),
    "bulk-hit": Operation("10,000 cached rows, plain: in_bulk()", 1),
    "bulk-update": Operation(
        "update or create 10,000 rows in a transaction, half of them there", 1
    ),
    "bulk-changed": Operation(
        "the same 10,000 rows again, with a tenth of them changed", 1
    ),
}
BULK_UPDATES = ["bulk-update", "bulk-changed"]
BULK = ["bulk", "bulk-hit", *BULK_UPDATES]
SELECTS = ["existing", "get"]
QUICK = [name for name in OPERATIONS if name not in ("async-hit", "large", *BULK)]
EACH = [name for name in QUICK if name not in SELECTS]
# Operations of several processes at once, and their share of reads.
MIXES = {f"mix-{share}": share for share in (50, 80, 95, 100)}
OPERATIONS |= {
    name: Operation(
        f"{share} % get_or_create() and {100 - share} % get() and save() of 10 rows, "
        "by 4 processes",
        400,
    )
    for name, share in MIXES.items()
}
PROCESSES = 4  # of a mix
CREATES = ["create", "autocommit"]

OURS = "getorcreateplus"
FLOORS = ("floor", "by-hand")
ORMS = ("sqlalchemy", "peewee")
# One call of each takes seconds.
SLOW = ["cacheops-update"]
# Each package has a process, and so has plain Django, because cacheops and
# cachalot patch Django, and this package reads each statement.
CONTENDERS = {
    "plain": Contender("plain Django", "plain", [*OPERATIONS]),
    "by-hand": Contender("get(), create() by hand", "plain", CREATES),
    "bulk-by-hand": Contender("bulk_create(ignore_conflicts=True)", "plain", ["bulk"]),
    "updates-by-hand": Contender("bulk_create(), bulk_update()", "plain", BULK_UPDATES),
    "invalidating": Contender("plain, invalidating by hand", "plain", [*MIXES]),
    "cached": Contender(
        "CachedManager",
        OURS,
        [*EACH, "get", "async-hit", "large", *BULK],
        (*FLOORS, *ORMS, "bulk-by-hand", "updates-by-hand"),
    ),
    "nonatomic": Contender(
        "NonAtomicManager",
        OURS,
        [*EACH, *SELECTS, "bulk", *BULK_UPDATES],
        ("by-hand", *ORMS, "bulk-by-hand", "updates-by-hand"),
    ),
    "cached-nonatomic": Contender(
        "CachedNonAtomicManager",
        OURS,
        BULK,
        ("nonatomic", "bulk-by-hand", "updates-by-hand"),
    ),
    "always": Contender("AlwaysManager", OURS, [*EACH, *SELECTS], ORMS),
    "always-get": Contender("AlwaysManager, get()", OURS, ["hit"]),
    "plus": Contender(
        "PlusManager",
        OURS,
        [*EACH, "async-hit", *BULK, *MIXES],
        (*FLOORS, "bulk-by-hand", "updates-by-hand", "invalidating"),
    ),
    "plus-bypass": Contender("PlusManager, bypass()", OURS, SELECTS, ORMS),
    "plus-get": Contender("PlusManager, get()", OURS, ["hit"], FLOORS),
    "local": Contender(
        "local_timeout = 60", OURS, ["hit", "async-hit", "bulk-hit"], ("floor-locmem",)
    ),
    "floor": Contender("one-step floor", OURS, ["hit"]),
    "floor-locmem": Contender("floor on LocMemCache", OURS, ["hit"]),
    "select": Contender("one SELECT, from_db()", "plain", SELECTS),
    "sqlalchemy": Contender("SQLAlchemy, ORM", "sqlalchemy", SELECTS),
    "sqlalchemy-core": Contender("SQLAlchemy, Core", "sqlalchemy", SELECTS),
    "peewee": Contender("peewee", "peewee", SELECTS),
    "cacheops": Contender("cacheops", "cacheops", EACH[:-1], ("plus", "cached")),
    "cacheops-get": Contender(
        "cacheops, get()", "cacheops", ["hit"], ("plus", "cached")
    ),
    "cacheops-update": Contender(
        "cacheops, invalidated_update()", "cacheops", ["update"], ("plus", "cached")
    ),
    "cachalot": Contender("cachalot", "cachalot", EACH, ("plus", "cached")),
}


def chosen_cases(names, *, quick):
    """Return the cases of the named operations and contenders, or all."""
    operations = [name for name in OPERATIONS if name in names]
    if not operations:
        operations = QUICK if quick else OPERATIONS
    contenders = [name for name in CONTENDERS if name in names]
    if not contenders:
        contenders = [name for name in CONTENDERS if name not in SLOW or not quick]
    return [
        Case(operation, contender)
        for operation in operations
        for contender in contenders
        if operation in CONTENDERS[contender].operations
    ]


def case_beside(case, cases):
    """
    Return the case to compare this one with, besides that of plain Django, or
    None.
    """
    if case.operation == "large":
        others = [Case("hit", case.contender)]
    else:
        others = [
            Case(case.operation, name) for name in CONTENDERS[case.contender].beside
        ]
    return next((other for other in others if other in cases), None)
