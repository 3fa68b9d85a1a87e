"""docs/faq.rst: the answer about django-cacheops, with a real one."""

import pytest

from ..readme import blocks
from ..support.repository import ROOT

pytestmark = pytest.mark.slow

SETTINGS = """
    INSTALLED_APPS += ["cacheops"]
    CACHEOPS_REDIS = "redis://127.0.0.1:6379/1"
    CACHEOPS = {"shop.other": {"ops": "all", "timeout": 60}}
"""
PROGRAM = """
    from getorcreateplus.statistics import Statistics
    from shop.models import Currency, Tag

    def look_up(model, **lookup):
        with Statistics() as statistics:
            obj, created = model.objects.get_or_create(**lookup)
        return obj, statistics.total.hits, list(statistics.total.misses)

    for _ in range(2):
        assert look_up(Tag, name="django")[1:] == (0, ["not cacheable"])
    look_up(Currency, code="EUR")
    for code in ("USD", "JPY"):
        currency, hits, _ = look_up(Currency, code="EUR")
        assert hits == 1
        currency.code = code
        currency.save()
        assert look_up(Currency, pk=currency.pk)[0].code == code
        Currency.objects.filter(code=code).update(code="EUR")
        look_up(Currency, code="EUR")
"""


def test_cacheops_needs_a_declaration(howto):
    project = howto("index.rst", migrate=False)
    [declared] = [
        block.source
        for block in blocks((ROOT / "docs/faq.rst").read_text())
        if "beside cacheops" in block.source
    ]
    models = (project.path / "shop/models.py").read_text()
    project.add("shop/models.py", f"{models}\n{declared}")
    project.add("config/settings.py", SETTINGS)
    assert "shop.Tag: (getorcreateplus.I019)" in project.manage("check")
    project.manage("migrate", "--run-syncdb", "--verbosity", "0")
    project.check(PROGRAM)
