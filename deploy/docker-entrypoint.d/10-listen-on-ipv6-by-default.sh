#!/bin/sh
# The server that comes with the image listens on IPv6 too, where the kernel has it. A file of the operator's is
# left as it is.
set -e

root=${EDGEWATER_ROOT:-}
conf=$root/etc/nginx/conf.d/default.conf
original=$root/usr/share/edgewater/default.conf

say() {
    [ -n "${NGINX_ENTRYPOINT_QUIET_LOGS:-}" ] || echo "${0##*/}: $*"
}

if [ ! -e "$root/proc/net/if_inet6" ]; then
    say 'there is no IPv6 here'
elif [ ! -f "$conf" ] || [ "$(cat "$conf")" != "$(cat "$original" 2>/dev/null)" ]; then
    say "$conf is not as it came: left as it is"
elif ! { : >>"$conf"; } 2>/dev/null; then
    say "$conf cannot be written"
else
    # Through a variable, not `sed -i`: the file may be a mount of its own.
    text=$(sed 's/^\( *listen  *\)80;$/&\n\1[::]:80;/' "$conf")
    printf '%s\n' "$text" >"$conf"
    say "$conf listens on IPv6"
fi
