"""Sphinx: tox -e docs. Nothing here asks the network."""

import django
from django.conf import settings

import getorcreateplus

# autodoc imports the package, and Django's managers want settings.
settings.configure()
django.setup()

project = "django-getorcreateplus"
author = "The authors of django-getorcreateplus"
version = release = getorcreateplus.__version__

extensions = ["sphinx.ext.autodoc"]
root_doc = "index"
exclude_patterns = ["_build"]
default_role = "code"
nitpicky = True
nitpick_ignore_regex = [
    # Of Django and the standard library, whose inventories the network has.
    ("py:.*", r"(django|collections|contextlib|enum)\..*"),
]

autodoc_member_order = "bysource"
# "objs", not what Python would print of an object's default.
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = f"{project} {release}"
html_show_copyright = False
html_show_sourcelink = False
pygments_style = "friendly"
