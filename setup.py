"""What pyproject.toml cannot say: the recipes of ``configs/`` travel as ``genrec/configs``."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["genrec*"]), "genrec.configs"],
    package_dir={"genrec.configs": "configs"},
    package_data={"genrec": ["py.typed"], "genrec.configs": ["**/*.gin"]},
)
