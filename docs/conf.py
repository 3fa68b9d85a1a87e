"""
Sphinx: tox -e docs. Nothing here asks the network, so there are no links into
the documentation of Django and Python (intersphinx needs their inventories).
"""

import os
import re
from pathlib import PurePosixPath

import django
from django.conf import settings
from docutils import nodes
from sphinx import addnodes

import getorcreateplus

# autodoc imports the package, and Django's managers want settings.
settings.configure()
django.setup()

project = "django-getorcreateplus"
author = "The authors of django-getorcreateplus"
version = release = getorcreateplus.__version__


extensions = ["sphinx.ext.autodoc", "sphinx_copybutton"]
root_doc = "index"
exclude_patterns = ["_build"]
default_role = "code"
nitpicky = True
nitpick_ignore_regex = [
    # Django and the standard library, whose inventories the network has.
    ("py:.*", r"(django|collections|contextlib|enum)\..*"),
]

autodoc_member_order = "bysource"
# "objs", not what Python would print of an object's default.
autodoc_preserve_defaults = True

# The command of a line that begins with "$ ", and not what it prints.
copybutton_prompt_text = "$ "

html_theme = "furo"
html_title = f"{project} {release}"
# Read the Docs says where the pages are.
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", "")
html_show_copyright = False
html_show_sourcelink = False
pygments_style = "friendly"


def link_pages(app, doctree):
    """
    Make links to pages of `text <page.rst>`__, which a reader of the source
    on GitHub can follow. The changelog is in the folder above: docs/page.rst.
    """
    folder = PurePosixPath(app.env.docname).parent
    for link in doctree.findall(nodes.reference):
        match = re.fullmatch(r"(?:docs/)?([\w./-]+)\.rst", link.get("refuri", ""))
        if match is None:
            continue
        target = addnodes.pending_xref(
            "",
            nodes.inline("", "", *link.children),
            reftype="doc",
            refdomain="std",
            refdoc=app.env.docname,
            reftarget=f"/{folder / match[1]}",
            refexplicit=True,
            refwarn=True,
        )
        target.source, target.line = link.source, link.line
        link.replace_self(target)


def setup(app):
    app.connect("doctree-read", link_pages)
