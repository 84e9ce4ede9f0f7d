# Sourced by the other scripts: puts the package with the extras named in $1 into .venv, once.
# Installs again only when the requirements have changed.

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $("$python" --version) found, Python 3.11 or newer is needed; set PYTHON=..." >&2
    exit 1
}
wanted="$1 $(cat requirements.txt pyproject.toml | cksum)"
if [ "$(cat ".venv/installed-$1" 2>/dev/null)" != "$wanted" ]; then
    [ -x .venv/bin/python ] || "$python" -m venv .venv || {
        echo "error: cannot create .venv; on Debian and Ubuntu: apt install python3-venv" >&2
        exit 1
    }
    echo "installing into .venv (one or two minutes; 1.4 GB, with PyTorch for the tests more)" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${1:+[$1]}"
    echo "$wanted" > ".venv/installed-$1"
fi
