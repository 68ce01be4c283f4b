#!/usr/bin/env bash
# Install from Debian what some tests need, where that is possible. Elsewhere this says why not, and
# these tests skip.
#
#   tools/install_for_tests.sh slurm      make test-slurm; the tests run daemons of their own
#   tools/install_for_tests.sh browser    tests of HTML pages
set -euo pipefail

case "${1:-}" in
slurm)
    programs="munged slurmctld slurmd srun"
    packages="munge slurm-client slurmctld slurmd"
    ;;
browser)
    programs="chromium chromedriver"
    packages="chromium chromium-driver"
    ;;
*)
    echo "usage: $0 slurm|browser" >&2
    exit 2
    ;;
esac

missing=
for program in $programs; do
    PATH="$PATH:/usr/sbin" command -v "$program" >/dev/null || missing="$missing $program"
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null; then
    echo "$1 is not installed: there is no apt-get here"
    exit 0
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
    if ! sudo --non-interactive true 2>/dev/null; then
        echo "$1 is not installed: that takes root, or sudo without a password"
        exit 0
    fi
    as_root=sudo
fi

# Debian asks this program whether packages may start their daemons.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap '$as_root rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
fi
$as_root apt-get update -qq
# shellcheck disable=SC2086
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
    $packages >/dev/null
