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
if [ -e data/sluice.lock ] && ! flock --nonblock data/sluice.lock true; then
	echo "An instance runs on ./data: stop it first." >&2
	exit 1
fi
rm -rf data
echo "./data is gone."
