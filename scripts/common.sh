# Shared by the set-up scripts: messages, folders, and packages of a newer Debian suite unpacked privately.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${MILLRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millrace}
tools=$cache/tools
languages=$cache/languages
# Tried in order where the machine's own suite is too old.
suites=${MILLRACE_DEBIAN_SUITES:-"forky sid trixie"}

say() { printf '%s: %s\n' "${step:-set-up}" "$*" >&2; }
# The last line of a failure is the command that mends it.
die() {
  say "$1"
  [ -z "${2:-}" ] || printf '  mend it with: %s\n' "$2" >&2
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif have sudo; then sudo "$@"; else return 127; fi
}

# apt_install PACKAGE... : with one update when the lists are too old to know the packages.
apt_install() {
  have apt-get || return 1
  local log
  log=$(mktemp)
  if as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >"$log" 2>&1 ||
    { as_root apt-get -qq update >>"$log" 2>&1 &&
      as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >>"$log" 2>&1; }; then
    rm -f "$log"
  else
    tail -5 "$log" >&2
    rm -f "$log"
    return 1
  fi
}

# True when version $1 is at least version $2.
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -1)" = "$2" ]; }

# private_apt SUITE WORKDIR : sets apt_opts so that apt-get and apt-cache work on SUITE alone, in WORKDIR,
# leaving the system's own lists and packages as they are.
private_apt() {
  local suite=$1 w=$2 codename mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  have apt-get && have dpkg-deb && [ -e $keyring ] || return 1
  codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  mirror=${MILLRACE_DEBIAN_MIRROR:-$(apt-get update --print-uris 2>/dev/null |
    sed -n "s|^'\(.*\)/dists/$codename/InRelease'.*|\1|p" | head -1)}
  [ -n "$mirror" ] || return 1
  mkdir -p "$w/lists/partial" "$w/cache/archives/partial" "$w/debs" "$w/root"
  : >"$w/status"
  echo "deb [arch=$(dpkg --print-architecture) target=Packages signed-by=$keyring] $mirror $suite main" >"$w/sources.list"
  apt_opts=(-o Dir::Etc::sourcelist="$w/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null
    -o Dir::State::lists="$w/lists" -o Dir::State::status="$w/status" -o Dir::Cache="$w/cache"
    -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User=)
  apt-get "${apt_opts[@]}" -qq update >&2
}

# unpack_from_suite PACKAGE DESTDIR : PACKAGE of the first suite that has it, unpacked into DESTDIR.
unpack_from_suite() {
  local package=$1 dest=$2 w suite
  w=$(mktemp -d)
  for suite in $suites; do
    if private_apt "$suite" "$w" && (cd "$w/debs" && apt-get "${apt_opts[@]}" -qq download "$package" >&2); then
      mkdir -p "$dest"
      dpkg-deb -x "$w"/debs/*.deb "$dest"
      rm -rf "$w"
      return 0
    fi
  done
  rm -rf "$w"
  return 1
}
