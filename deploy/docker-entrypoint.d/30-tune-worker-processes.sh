#!/bin/sh
# With NGINX_ENTRYPOINT_WORKER_PROCESSES_AUTOTUNE set, nginx.conf gets as many workers as the container may use
# processors: the least of those there are, of its set of processors, and of its share of time.
set -e

[ -n "${NGINX_ENTRYPOINT_WORKER_PROCESSES_AUTOTUNE:-}" ] || exit 0

root=${EDGEWATER_ROOT:-}
conf=$root/etc/nginx/nginx.conf
groups=$root/sys/fs/cgroup

say() {
    [ -n "${NGINX_ENTRYPOINT_QUIET_LOGS:-}" ] || echo "${0##*/}: $*"
}

if ! { : >>"$conf"; } 2>/dev/null; then
    echo "${0##*/}: $conf cannot be written (a read-only file system?)" >&2
    exit 0
fi

workers=$(nproc)

at_most() {
    if [ "$1" -ge 1 ] && [ "$1" -lt "$workers" ]; then workers=$1; fi
}

# share QUOTA PERIOD: microseconds of each period, begun processors counted.
share() {
    case $1$2 in
    *[!0-9]* | '') ;;
    *) if [ "$2" -gt 0 ]; then at_most $((($1 + $2 - 1) / $2)); fi ;;
    esac
}

# processors LIST: as in 0-3,8.
processors() {
    count=0
    for part in $(echo "$1" | sed 's/,/ /g'); do
        count=$((count + ${part#*-} - ${part%-*} + 1))
    done
    if [ $count -gt 0 ]; then at_most $count; fi
}

# first FILE...: the contents of the first that can be read.
first() {
    for file; do
        if [ -r "$file" ]; then
            cat "$file"
            return
        fi
    done
}

if [ -e "$groups/cgroup.controllers" ]; then
    own=$groups$(sed -n 's/^0:://p' "$root/proc/self/cgroup" 2>/dev/null)
    # Seen from inside, its own group may be the root of the tree.
    # shellcheck disable=SC2046
    share $(first "$own/cpu.max" "$groups/cpu.max")
    processors "$(first "$own/cpuset.cpus.effective" "$groups/cpuset.cpus.effective")"
else
    share "$(first "$groups/cpu/cpu.cfs_quota_us")" "$(first "$groups/cpu/cpu.cfs_period_us")"
    processors "$(first "$groups/cpuset/cpuset.effective_cpus" "$groups/cpuset/cpuset.cpus")"
fi

text=$(sed "s/^\( *\)worker_processes  *[^;]*;/\1worker_processes $workers; # was: &/" "$conf")
printf '%s\n' "$text" >"$conf"
say "worker_processes $workers"
