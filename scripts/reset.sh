#!/bin/sh
# Empties ./data after asking: the private Postgres with all its events, and the generated secret.
set -eu
cd "$(dirname "$0")/.."
[ -d data ] || { echo "There is no ./data."; exit 0; }
printf 'Remove everything in %s/data? [y/N] ' "$PWD"
read -r answer || answer=""
case $answer in
y | Y | yes) ;;
*) echo "Nothing was removed."; exit 1 ;;
esac
# An instance that runs holds the lock.
if [ -e data/sluice.lock ]; then
	command -v flock >/dev/null 2>&1 || {
		echo "Without flock(1) nobody knows whether an instance runs on ./data. Where none does:  rm -rf data" >&2
		exit 1
	}
	flock --nonblock data/sluice.lock true || {
		echo "An instance runs on ./data: stop it first." >&2
		exit 1
	}
fi
# Started as root, Postgres may have its files where its user can reach them, by a digest of the path (docs/protocol.md).
if [ "$(id -u)" -eq 0 ]; then
	digest=$(printf %s "$PWD/data" | sha256sum | cut -c 1-16)
	[ -z "$digest" ] || rm -rf "${SLUICE_ELSEWHERE:-/var/lib/sluice}/$digest"
fi
rm -rf data
echo "./data is gone."
