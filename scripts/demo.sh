#!/usr/bin/env bash
# Boots two guests on one vhostnet switch with a user-mode network and shows what they reach. CONSOLE=1 leaves one open;
# NO_INSTALL=1 only names what the machine lacks.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh demo
make --no-print-directory build
VHOSTNET=$PWD/bin/vhostnet go run ./integration/demo
