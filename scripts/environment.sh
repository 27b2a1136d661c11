# Sourced by demo.sh and test.sh: makes .venv with the locked packages if it is missing or out of date, and puts it first in PATH.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
    echo "error: $python: expected Python 3.11 or newer; name one with PYTHON=/path/to/python3" >&2
    exit 2
}
wanted=$(cat requirements.lock pyproject.toml scripts/environment.sh | sha256sum)
if [ "$(cat .venv/.installed 2>/dev/null)" != "$wanted" ]; then
    echo "Installing the packages of requirements.lock into .venv (about 1 minute, 2.5 GB; torch brings its GPU build where that is the default)"
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
    if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation "flash-attn>=2.7" ||
            echo "flash-attn could not be built here: attention runs on torch's own kernels"
    fi
    echo "$wanted" >.venv/.installed
fi
export PATH="$PWD/.venv/bin:$PATH"
