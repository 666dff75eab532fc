#!/usr/bin/env bash
# Build the sdist, the wheel from the sdist, install the wheel with the base requirements alone into
# an empty environment, and use it from another folder: imports and all commands.
#
#   PYTHON=.venv/bin/python tools/wheel_test.sh      (PYTHON needs the package "build")
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
[[ $python == */* ]] && python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "building the sdist, and the wheel from it"
cd "$root"
"$python" -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 ||
    { cat "$work/build.log" >&2; exit 1; }
wheels=("$work"/dist/*.whl)
ls "$work/dist"

echo "installing the wheel into an empty environment"
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --disable-pip-version-check --quiet \
    --constraint "$root/constraints.txt" "${wheels[0]}"
"$work/venv/bin/python" -m pip check

cd "$work"
export TF_CPP_MIN_LOG_LEVEL=3
"$work/venv/bin/python" -W error - "$work" <<'PYTHON'
import importlib.metadata
import importlib.util
import sys

import tf_sphereface
import tf_sphereface.eval
import tf_sphereface.export

for module in (tf_sphereface, tf_sphereface.eval, tf_sphereface.export):
    path = module.__file__ or ""
    if not path.startswith(f"{sys.argv[1]}/venv/"):
        sys.exit(f"{module.__name__} was imported from {path}, not from the wheel")
for name in ("eval", "export"):
    if importlib.util.find_spec(name):
        sys.exit(f"the wheel has put a package {name} beside tf_sphereface")
installed = importlib.metadata.version("tf_sphereface")
if installed != tf_sphereface.__version__:
    sys.exit(f"the wheel says {installed}, the package says {tf_sphereface.__version__}")
print(f"imported tf_sphereface {installed}, tf_sphereface.eval, tf_sphereface.export")
PYTHON

commands=$("$work/venv/bin/python" - <<'PYTHON'
import importlib.metadata

points = importlib.metadata.distribution("tf_sphereface").entry_points
print("\n".join(sorted(point.name for point in points if point.group == "console_scripts")))
PYTHON
)
for name in $commands; do
    "$work/venv/bin/$name" --help >"$work/help.txt" 2>"$work/error.txt" ||
        { echo "$name --help failed:" >&2; cat "$work/error.txt" >&2; exit 1; }
    echo "$name --help: $(wc -l <"$work/help.txt") lines"
done
echo "wheel test passed"
