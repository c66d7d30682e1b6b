#!/usr/bin/env bash
# Installs redis-server and mariadb-server if they are missing, by apt or brew, and strace
# where apt is and asks for no password.
# The tests start their own instances, so nothing may be left running: no package
# script gets to start a service.
set -euo pipefail

export PATH="$PATH:/usr/sbin:/usr/local/sbin:/opt/homebrew/bin:/opt/homebrew/opt/mariadb/bin:/usr/local/opt/mariadb/bin"

have_redis() { command -v redis-server >/dev/null; }
have_mariadb() { command -v mariadbd >/dev/null && command -v mariadb-install-db >/dev/null; }

# strace makes fsync fail in a test, which is skipped without it.
wants_strace() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v strace >/dev/null; }

missing() { # missing REDIS-PACKAGE MARIADB-PACKAGE
	have_redis || echo "$1"
	have_mariadb || echo "$2"
}

fail() {
	echo "servers: $*" >&2
	echo "servers: the tests need redis-server, mariadbd and mariadb-install-db on PATH." >&2
	exit 1
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	else
		sudo -n "$@" || sudo "$@"
	fi
}

with_apt() {
	local guard=/usr/sbin/policy-rc.d packages
	mapfile -t packages < <(missing redis-server mariadb-server; if wants_strace; then echo strace; fi)
	if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
		fail "run as root: apt-get install ${packages[*]}"
	fi
	# Debian asks this file whether a package may start its service. One that
	# exists already belongs to the machine and stays as it is.
	if [ ! -e "$guard" ]; then
		trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
		printf '#!/bin/sh\nexit 101\n' | as_root tee "$guard" >/dev/null
		as_root chmod 755 "$guard"
	fi
	local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o Acquire::Retries=3 -o DPkg::Lock::Timeout=120)
	as_root "${apt[@]}" update </dev/null
	as_root "${apt[@]}" install -y --no-install-recommends "${packages[@]}" </dev/null
}

with_brew() { # brew starts no service unless asked to
	local packages=() name
	while read -r name; do packages+=("$name"); done < <(missing redis mariadb)
	brew install "${packages[@]}" </dev/null
}

if have_redis && have_mariadb; then
	if wants_strace; then
		with_apt || echo "servers: no strace, so a test will be skipped." >&2
	fi
	exit 0
fi
if command -v apt-get >/dev/null; then
	with_apt
elif command -v brew >/dev/null; then
	with_brew
else
	fail "neither apt-get nor brew here: install Redis and MariaDB by hand."
fi
if ! have_redis || ! have_mariadb; then
	fail "still missing after the installation."
fi
