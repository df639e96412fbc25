#!/bin/sh
# demo.sh BINARY: starts the demo in the foreground and says what to look at. Logs and the cache go to target/demo.
set -eu
cd "$(dirname "$0")/.."
mkdir -p target/demo/logs
cat <<TEXT

  Edgewater's demo: an endless live stream behind the edge, from one process.

    https://localhost:8443    the player (the certificate is for development: accept it)
    http://localhost:8080     the same site without TLS

  To try, in another terminal:

    ffplay -tls_verify 0 https://localhost:8443/live/stream.m3u8       another player
    curl -sk -o /dev/null -D - https://localhost:8443/live/stream.m3u8     X-Cache-Status: HIT
    curl -s http://localhost:8080/metrics                              what Prometheus reads
    tail -f target/demo/logs/access.log                                who asks for what

  Change conf/demo.conf and reload; the player goes on:

    kill -HUP \$(cat target/demo/logs/edgewater.pid)

  Ctrl-C ends it.

TEXT
exec "$1" --demo -p target/demo -c "$PWD/conf/demo.conf" -e logs/error.log -g 'daemon off;'
