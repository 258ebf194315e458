"""Packages to install and what is compiled; all else is in pyproject.toml."""

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup

scan = Extension("megatron_prealign.codeswitch.scan", ["megatron_prealign/codeswitch/scan.pyx"])
extensions = cythonize([scan], build_dir="build")
for extension in extensions:
    # Without a C compiler the installation goes on, and the code-switch is half as fast. cythonize drops this setting.
    extension.optional = True

setup(
    # pyproject.toml can't add a mapped folder (tools/ as prealign_tools) to the packages that are found.
    packages=[*find_packages(include=["megatron_prealign", "megatron_prealign.*"]), "prealign_tools"],
    ext_modules=extensions,
)
