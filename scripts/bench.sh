#!/bin/sh
# Starts a server with its own Postgres in a temporary directory, measures it beside the floor, and stops it.
# docs/benchmarks.md has what it printed, and on which machine.
set -eu
cd "$(dirname "$0")/.."
ulimit -n "$(ulimit -Hn)"
data=$(mktemp -d)
chmod 755 "$data"
server=
second=

# halt: the second instance goes before the first, whose Postgres both use.
halt() {
	for one in $second $server; do
		kill "$one"
		wait "$one" || true
	done
	server= second=
}
stop() {
	halt
	rm -rf "$data"
}
trap stop EXIT

# start: every scenario gets a server of its own, so that none pays for the one before.
start() {
	halt
	rm -f "$data/ready" "$data/second/ready"
	bin/sluice serve --data "$data" --listen 127.0.0.1:18080 --admin-listen 127.0.0.1:19180 \
		--max-streams-per-user 0 --max-streams-per-org 0 --upload-max-size 2GiB --log-level error >"$data/ready" &
	server=$!
	until grep -q listening "$data/ready"; do
		kill -0 "$server"
		sleep 0.1
	done
}

# join: a second instance on the same database.
join() {
	mkdir -p "$data/second"
	bin/sluice serve --data "$data/second" --listen 127.0.0.1:18081 --admin-listen 127.0.0.1:19181 \
		--max-streams-per-user 0 --max-streams-per-org 0 --log-level error \
		--blobs "file://$data/uploads" --jwt-secret "$(cat "$data/jwt.secret")" \
		--database-url "host='$(sed -n 5p "$data/postgres/postmaster.pid")' port=5432 user=sluice dbname=sluice sslmode=disable" \
		>"$data/second/ready" &
	second=$!
	until grep -qs listening "$data/second/ready"; do
		kill -0 "$second"
		sleep 0.1
	done
}

# pair: a scenario over two instances.
pair() {
	start
	join
	echo "\$ sluice bench $* # two instances"
	bin/sluice bench "$@" --url http://127.0.0.1:18080,http://127.0.0.1:18081 \
		--admin http://127.0.0.1:19180,http://127.0.0.1:19181 --data "$data"
	echo
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
pair chat
pair chat --transport sse
bench chat --rooms 1000 --members 10 --rate 1000
bench poll --waiters 5000
bench upload
bench upload --size 2GiB --chunks 1MiB --rounds 1 --no-floor
bench idle --subscribers 10000
bench idle --subscribers 10000 --transport ndjson
bench idle --subscribers 10000 --transport websocket
