"""Packages to install and what is compiled; all else is in pyproject.toml."""

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup

# Without a C compiler the installation goes on without it, and the code-switch is half as fast.
scan = Extension("megatron_prealign.codeswitch.scan", ["megatron_prealign/codeswitch/scan.pyx"], optional=True)

setup(
    # pyproject.toml can't add a mapped folder (tools/ as prealign_tools) to the packages that are found.
    packages=[*find_packages(include=["megatron_prealign", "megatron_prealign.*"]), "prealign_tools"],
    ext_modules=cythonize([scan], build_dir="build"),
)
