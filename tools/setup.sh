# Set-up shared by tools/demo and tools/test: the virtual environment in .venv, and Debian packages. To be sourced.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
minimum=3.11

say() { printf '%s\n' "$@" >&2; } # one line an argument
die() { say "$@"; exit 1; }

# The first Python on PATH that is new enough; as root on Debian, installed if there is none.
find_python() {
    if ! python_on_path; then
        if apt_can_install; then apt_get_update; apt_install python3 python3-venv; fi
        python_on_path || die "usbbridge needs Python $minimum or newer, and there is none on PATH. On Debian 12 or newer:" \
            "  sudo apt-get install -y python3 python3-venv"
    fi
}

python_on_path() {
    local candidate
    for candidate in python3 python3.{14,13,12,11}; do
        if "$candidate" -c "import sys; sys.exit(sys.version_info < (${minimum/./, }))" 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

# Debian packs the module that makes virtual environments by itself.
need_venv_module() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null && return
    if ! apt_can_install; then
        die "Python's venv module is missing. On Debian:  sudo apt-get install -y python3-venv"
    fi
    apt_get_update
    apt_install python3-venv
    "$1" -c 'import ensurepip, venv' 2>/dev/null || die "$1 still has no venv module after installing python3-venv"
}

# ensure_venv run|dev: .venv with this tree installed in it, for running or for development too. Does nothing if that has
# been done for this folder, this Python and this pyproject.toml.
ensure_venv() {
    local level=$1 python wanted
    exec 9<"$root/pyproject.toml"
    ! command -v flock >/dev/null || flock 9 # two at once would install over each other
    python=$(find_python) || exit 1
    wanted="$root $("$python" --version) $(sha256sum <"$root/pyproject.toml")"
    if ! { is_stamped "$level" "$wanted" || is_stamped dev "$wanted"; }; then
        need_venv_module "$python"
        say "Setting up $venv (once; Python packages are downloaded) ..."
        grep -qsF "$root Python" "$venv"/.installed-* && "$venv/bin/python" -c '' 2>/dev/null \
            || "$python" -m venv --clear "$venv" || die "Could not make a virtual environment in $venv."
        rm -f "$venv"/.installed-*
        if [ "$level" = dev ]; then pip_install "${root}[dev]"; else pip_install "$root"; fi
        printf '%s\n' "$wanted" >"$venv/.installed-$level"
    fi
    exec 9<&-
}

is_stamped() { [ "$(cat "$venv/.installed-$1" 2>/dev/null)" = "$2" ] && [ -x "$venv/bin/usbbridge" ]; }

pip_install() {
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --editable "$1" >&2 \
        || die "Installing Python packages failed (see above). Is the package index reachable?"
}

apt_can_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

apt_get_update() { apt-get -qq update >&2 || say "apt-get update failed; trying with the package lists at hand"; }

apt_install() {
    say "Installing Debian packages: $*"
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends "$@" >&2 \
        || die "apt-get could not install: $*"
}

# apt_missing FILE...: the packages listed in FILEs, one a line, that are not installed. `name?` is one that only some
# releases have: it counts as missing only where apt knows it.
apt_missing() {
    local name status
    sed 's/#.*//' "$@" | while read -r name; do
        [ -n "$name" ] || continue
        status=$(dpkg-query -W -f '${db:Status-Status}' "${name%\?}" 2>/dev/null) || true
        [ "$status" = installed ] && continue
        if [[ $name != *\? ]] || apt-cache show "${name%\?}" >/dev/null 2>&1; then echo "${name%\?}"; fi
    done
}

# ensure_apt FILE...: install what FILEs list. When that can't be done here, say how to, and fail.
ensure_apt() {
    local missing
    if ! command -v dpkg-query >/dev/null; then
        say "This is no Debian: whether what Debian calls this is installed is not checked: $(sed 's/#.*//' "$@" | xargs)"
        return 0
    fi
    mapfile -t missing < <(apt_missing "$@")
    [ ${#missing[@]} = 0 ] && return 0
    if ! apt_can_install; then
        say "Debian packages are missing. Install them, or run this as root once:" \
            "  sudo apt-get install -y --no-install-recommends ${missing[*]}"
        return 1
    fi
    apt_get_update
    mapfile -t missing < <(apt_missing "$@")
    apt_install "${missing[@]}"
}
