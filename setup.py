"""Packages to install; all else is in pyproject.toml."""

from setuptools import find_packages, setup

# pyproject.toml can't add a mapped folder (tools/ as prealign_tools) to the packages that are found.
setup(packages=[*find_packages(include=["megatron_prealign", "megatron_prealign.*"]), "prealign_tools"])
