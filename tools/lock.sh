#!/usr/bin/env bash
# Compiles requirements.txt, in an environment of its own so that the compiler's requirements stay out of it.
set -euo pipefail
cd "$(dirname "$0")/.."
# The oldest Python served decides, since requirements that only it has are left out elsewhere: Debian 12 has 3.11.2.
python=${PYTHON:-/usr/bin/python3.11}
"$python" -m venv --clear .cache/lock
.cache/lock/bin/python -m pip --quiet --disable-pip-version-check install pip-tools
.cache/lock/bin/pip-compile --quiet ${UPGRADE---upgrade} --generate-hashes --strip-extras --allow-unsafe --no-header \
    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options \
    --extra embedded --extra dev --output-file requirements.txt pyproject.toml
echo "lock: $(grep -c '==' requirements.txt) packages"
