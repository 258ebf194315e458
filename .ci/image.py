#!/usr/bin/env python3
"""Execute the Dockerfile's target `cpu` without Docker, in a root file system of debootstrap, and a command inside.

    .ci/image.py FOLDER                                      # build, and import the package
    .ci/image.py FOLDER make test TESTS=tests/config         # as the image's user; builds first what is not there

It copies the committed tree once; remove FOLDER to build anew. Needs root and the package debootstrap. Variables PIP_*
replace the Dockerfile's arguments of that name; --bind FOLDER makes a local package index visible inside.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
TARGET = "cpu"
RELEASE = "bookworm"  # of the target's base image
# Mounts that end with the command.
INSIDE = """
root=$1; user=$2; folder=$3; shift 3
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
for bound in $BOUND; do
  if [ -d "$bound" ]; then mkdir -p "$root$bound"; else mkdir -p "$(dirname "$root$bound")"; touch "$root$bound"; fi
  mount --rbind "$bound" "$root$bound"
done
exec chroot --userspec="$user" "$root" sh -c 'cd "$0" && exec env --ignore-environment "$@"' "$folder" "$@"
"""


class Image:
    """A root file system, and what the instructions so far set."""

    def __init__(self, root: Path, bound: list[Path]) -> None:
        """Begin as the base image does: root, in /."""
        self.root = root
        self.bound = bound
        self.user = "root"
        self.folder = "/"
        self.variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

    def run(self, *command: str) -> int:
        """Run a command as the current user in the current folder; return its exit code."""
        home = "/root" if self.user == "root" else f"/home/{self.user}"
        outside = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        variables = [f"{name}={value}" for name, value in ({"HOME": home} | self.variables | outside).items()]
        isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-ec", INSIDE, "-"]
        inside = [str(self.root), self.user, self.folder, *variables, *command]
        bound = os.environ | {"BOUND": " ".join(map(str, self.bound))}
        return subprocess.run([*isolated, *inside], env=bound).returncode

    def execute(self, instruction: str, value: str, is_built: bool) -> None:
        """Execute an instruction; with `is_built` only those that set something."""
        if instruction in ("ARG", "ENV"):
            name, _, text = value.partition("=")
            self.variables[name] = text
        elif instruction == "USER":
            self.user = value
        elif instruction == "WORKDIR":
            self.folder = value
        elif instruction == "COPY" and not is_built:
            self._copy()
        elif instruction == "RUN" and not is_built and (code := self.run("sh", "-c", value)):
            sys.exit(f"error: exit code {code} of RUN {value}")

    def _copy(self) -> None:
        """Copy the committed tree into the current folder, for the current user."""
        archive = subprocess.run(["git", "-C", str(REPOSITORY), "archive", "HEAD"], check=True, capture_output=True)
        (self.root / "tmp" / "tree.tar").write_bytes(archive.stdout)
        if self.run("tar", "--extract", "--no-same-owner", "--file", "/tmp/tree.tar"):
            sys.exit("error: the tree was not copied")
        (self.root / "tmp" / "tree.tar").unlink()


def instructions() -> Iterator[tuple[str, str]]:
    """Yield the instructions of the target, each with its value on one line."""
    text = re.sub(r"^#.*\n", "", (REPOSITORY / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    (target,) = re.findall(rf"^FROM \S+ AS {TARGET}\n(.*?)(?=^FROM |\Z)", text, re.MULTILINE | re.DOTALL)
    for line in target.replace("\\\n", " ").splitlines():
        if line.strip():
            instruction, _, value = line.partition(" ")
            yield instruction, value.strip()


def make_root(root: Path) -> None:
    """Make what the base image has, once, with the network as it is here."""
    if not (root / "etc" / "debian_version").exists():
        packages = "--include=ca-certificates"
        subprocess.run(["debootstrap", "--variant=minbase", packages, RELEASE, str(root)], check=True)
    for name in ("resolv.conf", "hosts", "ssl/certs/ca-certificates.crt"):
        shutil.copy(Path("/etc") / name, root / "etc" / name)


def main() -> int:
    """Build what is not built, and run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the root file system")
    parser.add_argument("--bind", type=Path, action="append", default=[], help="folder to show inside, too")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="run inside; default: import the package")
    arguments = parser.parse_args()
    root = arguments.folder.resolve()
    image = Image(root, arguments.bind)
    mark = root / ".complete"
    is_built = mark.exists()
    if not is_built:
        make_root(root)
    for instruction, value in instructions():
        print(f"{instruction} {value}", flush=True)
        image.execute(instruction, value, is_built)
    mark.touch()
    command = arguments.command or ["python", "-c", "import megatron_prealign"]
    print(f"as {image.user}: {shlex.join(command)}", flush=True)
    return image.run(*command)


if __name__ == "__main__":
    raise SystemExit(main())
