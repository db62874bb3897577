#!/bin/sh
# Starts a server with its own Postgres in a temporary directory, measures it beside the floor, and stops it.
# docs/benchmarks.md has what it printed, and on which machine.
set -eu
cd "$(dirname "$0")/.."
ulimit -n "$(ulimit -Hn)"
data=$(mktemp -d)
chmod 755 "$data"
server=
stop() {
	[ -z "$server" ] || { kill "$server"; wait "$server" || true; }
	rm -rf "$data"
}
trap stop EXIT

# start: every scenario gets a server of its own, so that none pays for the one before.
start() {
	[ -z "$server" ] || { kill "$server"; wait "$server" || true; }
	rm -f "$data/ready"
	bin/sluice serve --data "$data" --listen 127.0.0.1:18080 --admin-listen 127.0.0.1:19180 \
		--max-streams-per-user 0 --max-streams-per-org 0 --upload-max-size 2GiB --log-level error >"$data/ready" &
	server=$!
	until grep -q listening "$data/ready"; do
		kill -0 "$server"
		sleep 0.1
	done
}

bench() {
	start
	echo "\$ sluice bench $*"
	bin/sluice bench "$@" --url http://127.0.0.1:18080 --admin http://127.0.0.1:19180 --data "$data"
	echo
}

bench fanout --duration 20s
bench fanout --rate 0 --publishers 4 --batch 100 --duration 5s
bench fanout --sharing 10 --duration 20s
bench fanout --sharing 10 --subscribers 10 --duration 20s --no-floor
for door in ndjson websocket; do
	bench fanout --transport $door --duration 20s
	bench fanout --transport $door --rate 0 --publishers 4 --batch 100 --duration 5s
done
bench publish --publishers 64
bench sql
bench poll --waiters 5000
bench upload
bench upload --size 2GiB --chunks 1MiB --rounds 1 --no-floor
bench idle --subscribers 10000
bench idle --subscribers 10000 --transport ndjson
bench idle --subscribers 10000 --transport websocket
