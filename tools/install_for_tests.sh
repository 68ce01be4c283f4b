#!/usr/bin/env bash
# Install Debian packages that some tests need. Where that is not possible, print why and exit with
# 0: these tests then skip, with their reason.
#
#   tools/install_for_tests.sh slurm      for make test-slurm; the tests run their own daemons
#   tools/install_for_tests.sh browser    for tests of HTML pages
#
# Uses sudo for users other than root, and asks first; with CI=true it does not ask.
set -uo pipefail

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

not_installed() {
    echo "$1 is not installed: $2; its tests skip"
    exit 0
}

missing=
for program in $programs; do
    PATH="$PATH:/usr/sbin" command -v "$program" >/dev/null || missing="$missing $program"
done
[ -n "$missing" ] || exit 0
command -v apt-get >/dev/null || not_installed "$1" "there is no apt-get here"
as_root=
if [ "$(id -u)" -ne 0 ]; then
    as_root=sudo
    command -v sudo >/dev/null || not_installed "$1" "this needs root, and there is no sudo"
    if [ "${CI:-}" = true ]; then
        as_root="sudo --non-interactive"
    elif [ -t 0 ]; then
        read -r -p "install $packages with sudo apt-get? [y/N] " answer
        [ "$answer" = y ] || [ "$answer" = Y ] || not_installed "$1" "not wanted"
    else
        not_installed "$1" "sudo is used only from a terminal, where it asks first, or with CI=true"
    fi
    $as_root true || not_installed "$1" "sudo refuses"
fi

# Debian asks this program whether packages may start their daemons.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap '$as_root rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
fi
install="$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends"
# shellcheck disable=SC2086
if ! { $as_root apt-get update -qq && $install $packages; } >/dev/null; then
    not_installed "$1" "apt-get failed, see above"
fi
