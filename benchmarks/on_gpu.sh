#!/usr/bin/env bash
# All that wants a GPU, in one command and under eight minutes; benchmarks/README.md, "On a GPU", has the options.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-}
if [[ -z $python ]]; then
  python=python3
  if [[ -x .venv/bin/python ]]; then python=.venv/bin/python; fi
fi
exec "$python" benchmarks/on_gpu.py "$@"
