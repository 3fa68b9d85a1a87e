"""
What setup.cfg cannot say: the addresses, all made of its "url".

PyPI shows README.rst without the files beside it. So the links to these files
become addresses of the repository, at the tag of this version.
"""

import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent


def read(name):
    return (HERE / name).read_text(encoding="utf-8")


config = ConfigParser()
config.read_string(read("setup.cfg"))
url = config["metadata"]["url"]
module = read("getorcreateplus/__init__.py")
[version] = re.findall(r'^__version__ = "(.+)"$', module, re.MULTILINE)
pages = f"{url}/blob/{version}"

readme = re.sub(r"<(?!\w+:)([^<>\s]+)>`_", rf"<{pages}/\1>`_", read("README.rst"))
readme = re.sub(r"(?m)^(\.\. image:: )(?!\w+:)", rf"\1{url}/raw/{version}/", readme)

setup(
    long_description=readme,
    long_description_content_type="text/x-rst",
    project_urls={
        "Documentation": f"{pages}/docs/index.rst",
        "Changelog": f"{pages}/CHANGELOG.rst",
        "Source": url,
        "Issues": f"{url}/issues",
    },
)
