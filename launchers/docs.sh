#!/usr/bin/env bash
# Build the site of README.md and docs/ into build/site; a link that leads nowhere is an error.
# usage: launchers/docs.sh [--serve]
#   --serve    show it at http://127.0.0.1:8000, and build it again at each change
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
source launchers/setup.sh

case "${1:-}" in
"") command=(build --strict) ;;
--serve) command=(serve --watch README.md --watch data_pipelines/datasets/README.md) ;;
-h | --help) sed -n '/^# usage:/,/^[^#]/s/^# \{0,1\}//p' launchers/docs.sh && exit ;;
*) fail "unknown argument $1; usage: launchers/docs.sh [--serve]" ;;
esac

set_up docs
export NO_MKDOCS_2_WARNING=1
"$PYTHON" -m mkdocs "${command[@]}"
[ "${command[0]}" = serve ] || echo "The site is in $PWD/build/site; open index.html there"
