# Sourced by the other scripts: installs the package, with the extras named in $1, into .venv.
# Reinstalls only if the requirements have changed.

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $("$python" --version) found, but Python 3.11 or newer is needed; set PYTHON=..." >&2
    exit 1
}
wanted="$1 $(cat requirements.txt pyproject.toml | cksum)"
if [ "$(cat ".venv/installed-$1" 2>/dev/null)" != "$wanted" ]; then
    [ -x .venv/bin/python ] || "$python" -m venv .venv || {
        echo "error: cannot create .venv; on Debian and Ubuntu: apt install python3-venv" >&2
        exit 1
    }
    echo "installing into .venv (one or two minutes; 1.4 GB, more with PyTorch for the tests)" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".${1:+[$1]}"
    echo "$wanted" > ".venv/installed-$1"
fi
