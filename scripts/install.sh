#!/bin/sh
# Installs what is missing to build and run Sluice; with --test also what its tests need. Says what it does, and asks
# for nothing that is there.
set -eu

fail() {
	echo "$*" >&2
	exit 1
}

# have NAME: a program of that name is on PATH.
have() { command -v "$1" >/dev/null 2>&1; }

have go || fail "Go is not installed: get 1.26 or newer from https://go.dev/dl/"
version=$(go env GOVERSION 2>/dev/null | sed 's/^.*go//')
major=${version%%.*}
rest=${version#*.}
minor=${rest%%[!0-9]*}
if [ "${major:-0}" -lt 1 ] || { [ "$major" -eq 1 ] && [ "${minor:-0}" -lt 26 ]; }; then
	fail "Go ${version:-of an unknown version} is too old: get 1.26 or newer from https://go.dev/dl/"
fi

missing=""
postgres=$(ls -d "${SLUICE_PG_PLACES:-/usr/lib/postgresql}"/*/bin/initdb 2>/dev/null || true)
if [ -z "$postgres" ] && ! have initdb; then
	missing=" postgresql"
fi
# The race detector needs a C compiler.
if [ "${1:-}" = --test ] && ! have gcc && ! have cc; then
	missing="$missing gcc libc6-dev"
fi
# What tests start themselves; Debian keeps such programs off the PATH of ordinary users.
sbin=${SLUICE_SBIN:-/usr/sbin}
services=""
for one in pgbouncer nginx haproxy; do
	if [ "${1:-}" = --test ] && ! have "$one" && [ ! -x "$sbin/$one" ]; then
		services="$services $one"
	fi
done
missing="$missing$services"
# What documents are read with. The server runs without; the tests do not.
readers=""
have tesseract || readers=" tesseract-ocr tesseract-ocr-eng tesseract-ocr-osd"
for one in pdfinfo pdftotext pdftoppm; do
	have "$one" || { readers="$readers poppler-utils" && break; }
done
if [ "${1:-}" = --test ]; then
	missing="$missing$readers"
	readers=""
fi
# The clients that tests read with; what of them comes from npm follows below.
if [ "${1:-}" = --test ]; then
	have node || missing="$missing nodejs"
	for one in npm curl chromium; do
		have "$one" || missing="$missing $one"
	done
fi

if [ -n "$missing" ]; then
	have apt-get || fail "Missing:$missing. Install the Postgres server (initdb, postgres), a C compiler, PgBouncer, nginx, HAProxy, Tesseract (with eng and osd), Poppler's utilities, curl, Chromium and Node with npm (where it is older than 20, the tests take what npx node@20 runs) with your package manager; only apt-get is known here."
	# Debian would start a cluster of its own for everybody; Sluice starts a private one.
	config=${SLUICE_PG_CONFIG:-/etc/postgresql-common}
	quiet=""
	case $missing in
	*postgresql*) [ -e "$config/createcluster.conf" ] || quiet=yes ;;
	esac
	as=""
	if [ "$(id -u)" -ne 0 ]; then
		as="sudo"
		have sudo || fail "Missing:$missing. Run as root:  ${quiet:+mkdir -p $config && echo 'create_main_cluster = false' >$config/createcluster.conf && }apt-get update && apt-get install -y --no-install-recommends$missing${services:+ && for one in$services; do service \$one stop; update-rc.d \$one disable; done}"
	fi
	if [ -n "$quiet" ]; then
		$as mkdir -p "$config"
		echo "create_main_cluster = false" | $as tee "$config/createcluster.conf" >/dev/null
	fi
	# Nor does anybody want their services, now or at the next start of the machine.
	if [ -n "$services" ] && [ ! -e "$sbin/policy-rc.d" ]; then
		trap '$as rm -f "$sbin/policy-rc.d"' EXIT
		printf '#!/bin/sh\nexit 101\n' | $as tee "$sbin/policy-rc.d" >/dev/null
		$as chmod 755 "$sbin/policy-rc.d"
	fi
	echo "Installing$missing"
	$as apt-get update -qq
	# shellcheck disable=SC2086 # a list of packages
	$as env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
	for one in $services; do
		$as update-rc.d "$one" disable
	done
fi

# Nobody is asked for a password for what the server runs without.
read_documents() {
	have apt-get || return 1
	as=""
	if [ "$(id -u)" -ne 0 ]; then
		have sudo || return 1
		as="sudo -n"
	fi
	echo "Installing$readers"
	# shellcheck disable=SC2086 # a list of packages
	$as apt-get update -qq && $as env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $readers
}
if [ -n "$readers" ] && ! read_documents; then
	echo "Documents are kept but not read. Missing:$readers" >&2
fi

go mod download
[ "${1:-}" = --test ] || exit 0

# cmp says no where nothing is installed as well as where the lock file is another one.
cd "$(dirname "$0")/../clients"
if ! cmp -s package-lock.json node_modules/.installed; then
	echo "Installing the clients of package-lock.json"
	npm ci --no-audit --no-fund --loglevel=error
	cp package-lock.json node_modules/.installed
fi
# Debian 12 has Node 18. The tests take the one that stands beside the clients, where there is one.
system=$(node --version | sed 's/^v//; s/[.].*//')
if [ "$system" -lt 20 ] && [ ! -x node_modules/.bin/node ]; then
	echo "Installing node@20: the system's is $(node --version)"
	npm install --no-save --no-audit --no-fund --loglevel=error node@20.20.2
fi
