#!/usr/bin/env bash
# Runs the tests under Debian trixie's Python 3.13 with the newest packages that we allow.
#
#   sudo bash scripts/test_newest.sh FOLDER [ARGUMENT OF PYTEST ...]
#
# Needs root and debootstrap. The first call makes FOLDER, a Debian of 9 GB, most of it PyTorch; later
# calls upgrade the packages. The browser test is skipped, because FOLDER has no Chromium.
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,7s/^# \?//p' "$0" >&2; exit 1; }
folder=$(realpath "$1")
[ -n "${INSIDE:-}" ] || INSIDE=1 exec unshare --mount bash "$0" "$@" # our mounts end with the script
shift
cd "$(dirname "$0")/.."

if [ ! -x "$folder/usr/bin/python3" ]; then
    debootstrap --variant=minbase --include=ca-certificates,git,procps,python3-venv trixie "$folder"
fi
mkdir -p "$folder/project"
mount --rbind /dev "$folder/dev"
mount -t proc proc "$folder/proc"
mount --bind . "$folder/project"
# Downloads go where this machine's do.
cp --dereference /etc/resolv.conf /etc/hosts "$folder/etc/"
cp --dereference /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/"

chroot "$folder" env LC_ALL=C.UTF-8 HOME=/root TMPDIR=/tmp bash -euo pipefail -s -- "$@" <<'INSIDE'
cd /project
[ -x /venv/bin/python ] || python3 -m venv /venv
/venv/bin/pip install --quiet --upgrade --upgrade-strategy eager --editable '.[test]'
/venv/bin/python --version
/venv/bin/pip list --format=freeze | grep -E "^(jax|jaxlib|flax|optax|orbax-checkpoint|grain|torch|numpy|opencv.*)="
/venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -p no:cacheprovider "$@"
INSIDE
