# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What do all scripts share? Finding a Python, installing what is missing, building the package.
# Sourced from the repository's top with `set -euo pipefail`.

say() { printf '\n== %s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

packages_of() { # GROUP... -> the packages of those groups, one per line
    local group
    for group in "$@"; do
        awk -v group="$group" '$1 == group { for (i = 2; i <= NF; i++) print $i }' scripts/apt-packages
    done | sort -u
}

is_installed() { # dpkg's word, "install ok installed", nothing for a package it never saw
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

until_true() { # COMMAND... within 30 s; the logs of the current folder otherwise
    local tries=150
    while [ $((tries -= 1)) -gt 0 ]; do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.2
    done
    cat ./*.log >&2 || true
    die "not within 30 s: $*"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -- "$@"; fi
}

# Install the packages of the groups that are missing; none of them starts a service.
need_packages() { # GROUP...
    local package missing=()
    command -v apt-get >/dev/null || {
        [ -n "${FASTDL_NO_APT:-}" ] && return
        die "this is no Debian system: install what scripts/apt-packages lists under '$*' by the" \
            "names that it has here, then run again with FASTDL_NO_APT=1"
    }
    for package in $(packages_of "$@"); do
        is_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        die "needs root once (or sudo) for: apt-get install --no-install-recommends ${missing[*]}"
    fi
    say "installing ${#missing[@]} Debian packages: ${missing[*]}"
    install_quietly "${missing[@]}"
}

install_quietly() { # PACKAGE...
    local package unit policy=/usr/sbin/policy-rc.d ours= log
    log=$(mktemp)
    if [ ! -e "$policy" ]; then # 101: invoke-rc.d must not start anything
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
        ours=1
    fi
    local status=0
    {
        as_root apt-get update -qq &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
                -o Dpkg::Use-Pty=0 --no-install-recommends "$@"
    } >"$log" 2>&1 || status=$?
    if [ -n "$ours" ]; then as_root rm -f "$policy"; fi
    if [ "$status" != 0 ]; then
        cat "$log" >&2
        rm -f "$log"
        die "apt-get failed ($status) for: $*"
    fi
    rm -f "$log"
    # Nor at the next boot: services for a demonstration or a test are started by hand.
    if [ -d /run/systemd/system ]; then
        for package in "$@"; do
            dpkg -L "$package" | sed -n 's|^.*/systemd/system/\([^/@]*\.\(service\|socket\)\)$|\1|p' |
                while read -r unit; do as_root systemctl disable -q "$unit" 2>/dev/null || true; done
        done
    fi
}

# Print the path of a Python >= 3.11 that can make virtual environments and build extensions.
find_python() {
    local name found
    for name in ${PYTHON:-} python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
        found=$("$name" -c 'import sys; print(sys.executable if sys.version_info >= (3, 11) else "")' \
            2>/dev/null) || continue
        [ -n "$found" ] && { echo "$found"; return; }
    done
    need_packages python >&2
    /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "fastdl needs Python 3.11 or newer (PYTHON=/path/to/python names one)"
    echo /usr/bin/python3
}

# .venv with the package in it, from what LOCK names: those versions, and files of those digests.
# Quick if nothing has changed. C compiler warnings are errors in these builds.
make_venv() { # LOCK
    local lock=$1 python stamp pip
    stamp=.venv/built-$lock
    if [ -e "$stamp" ] && [ -z "$(find csrc src pyproject.toml setup.py "$lock" \
        -newer "$stamp" -type f ! -path '*/__pycache__/*' ! -path '*.egg-info/*' \
        ! -name '*.so' ! -path 'src/fastdl/core/*.c' -print -quit)" ]; then
        return
    fi
    python=$(find_python)
    case $python in
        /usr/bin/*) need_packages python ;;
    esac
    if [ ! -x .venv/bin/python ]; then
        say "making .venv with $("$python" --version) ($python)"
        "$python" -m venv .venv
    fi
    say "installing the Python packages of $lock, building fastdl (about a minute on two cores)"
    pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation)
    # The build tools first: source packages are built with them, and with no others.
    awk '/^[a-z]/ { ours = /^(setuptools|cython)==/ } ours' "$lock" >.venv/build.lock
    "${pip[@]}" --require-hashes --requirement .venv/build.lock
    "${pip[@]}" --require-hashes --requirement "$lock"
    FASTDL_WERROR=1 "${pip[@]}" --no-deps --force-reinstall .
    touch "$stamp"
}
