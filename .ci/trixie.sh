#!/usr/bin/env bash
# Tests on Debian 13 (trixie): Python 3.13 and megatron-core 0.19. For releases; needs root and the package debootstrap.
#
#     .ci/trixie.sh FOLDER [tests ...]
#
# makes a root file system in FOLDER (once; 8 GB with the CUDA build of torch, PIP_EXTRA_INDEX_URL chooses another), copies
# the committed tree into it, and runs there the given tests, or all.
set -euo pipefail
root=$(realpath -m "${1:?usage: .ci/trixie.sh FOLDER [tests ...]}")
shift
repository=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
packages=ca-certificates,git,make,procps,python3-dev,python3-venv

if [ ! -e "$root/.complete" ]; then
  debootstrap --variant=minbase --include="$packages" trixie "$root"
  touch "$root/.complete"
fi
# The network as it is here, certificates included.
cp /etc/resolv.conf /etc/hosts "$root/etc"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
mkdir -p "$root/opt/megatron-prealign"
git -C "$repository" archive HEAD | tar --extract --directory "$root/opt/megatron-prealign"

# Mounts that end with the tests.
unshare --mount --pid --fork --kill-child bash -c '
  root=$1; shift
  mount -t proc proc "$root/proc"
  mount --rbind /dev "$root/dev"
  exec chroot "$root" make --directory /opt/megatron-prealign test CORE=0.19 TESTS="$*"
' - "$root" "$@"
