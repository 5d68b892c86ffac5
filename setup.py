"""What pyproject.toml cannot say: the recipes of ``configs/`` travel as ``genrec/configs``.

The files of the service's page travel beside the module that sends them.

An editable install finds them in the checkout. It puts the checkout on the path itself: with the
import hook that setuptools writes otherwise, ``import genrec`` fails in the folder that holds a
clone named ``genrec``, which Python takes for a namespace package.
"""

import sys

from setuptools import find_packages, setup

packages, package_dir = find_packages(include=["genrec*"]), {"": "."}
if "editable_wheel" not in sys.argv:
    packages, package_dir = [*packages, "genrec.configs"], {"genrec.configs": "configs"}

setup(
    packages=packages,
    package_dir=package_dir,
    package_data={
        "genrec": ["py.typed"],
        "genrec.configs": ["**/*.gin"],
        "genrec.reporting": ["page/*"],
        "genrec.serving.http": ["static/*"],
    },
)
