#!/usr/bin/env bash
# Install Debian's Slurm for the tests (make test-slurm), where that is possible. Its daemons do not
# start: the tests run their own. Elsewhere this says why not, and the tests skip.
set -euo pipefail

missing=
for program in munged slurmctld slurmd srun; do
    PATH="$PATH:/usr/sbin" command -v "$program" >/dev/null || missing="$missing $program"
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null; then
    echo "Slurm is not installed: there is no apt-get here"
    exit 0
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
    if ! sudo --non-interactive true 2>/dev/null; then
        echo "Slurm is not installed: that takes root, or sudo without a password"
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
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
    munge slurm-client slurmctld slurmd >/dev/null
