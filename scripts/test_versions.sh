#!/usr/bin/env bash
# Tests with other versions than the newest, in an environment of their own under .venvs/.
#
#   scripts/test_versions.sh lowest                 # the lowest versions that pyproject.toml allows
#   scripts/test_versions.sh torch==2.6.0           # this one held, everything else the newest that goes with it
#   scripts/test_versions.sh lowest tests/nbsmt     # some tests alone
#
# Needs uv (pip install uv). Old libraries warn of what newer ones beside them have deprecated: that is no failure here.
set -euo pipefail
cd "$(dirname "$0")/.."
versions=${1:?lowest, or a requirement such as torch==2.6.0}
shift
environment=.venvs/${versions//[^A-Za-z0-9.]/-}
uv venv --quiet --allow-existing "$environment"
if [ "$versions" = lowest ]; then
    uv pip install --quiet --python "$environment" --resolution lowest-direct -e '.[test]'
else
    uv pip install --quiet --python "$environment" -e '.[test]' "$versions"
fi
uv pip list --python "$environment" | grep -iE '^(torch|torchvision|triton|numba|numpy|pandas|scipy|hydra-core) '
OMP_NUM_THREADS=1 exec "$environment/bin/python" -m pytest -n 2 --dist worksteal -W default::DeprecationWarning "${@:-tests}"
