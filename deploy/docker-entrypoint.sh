#!/bin/sh
# The image's entrypoint. Before the server starts, what lies in /docker-entrypoint.d prepares its configuration:
# in the order of the numbers in the names, *.envsh is read into this shell, so that its variables are there for
# all that follows, and *.sh is run. Any other command is run as it is.
#
# NGINX_ENTRYPOINT_QUIET_LOGS   when set, nothing is said about it
# EDGEWATER_ROOT                the directory that stands for / (tests)
set -e

say() {
    [ -n "${NGINX_ENTRYPOINT_QUIET_LOGS:-}" ] || echo "$0: $*"
}

steps=${EDGEWATER_ROOT:-}/docker-entrypoint.d

case ${1:-} in
nginx | nginx-debug | edgewater)
    # Names without line ends; with blanks they are still one name.
    list=$(find -L "$steps" -type f 2>/dev/null | sort -V)
    [ -n "$list" ] || say "nothing in $steps: the configuration is taken as it is"
    while [ -n "$list" ]; do
        step=${list%%"
"*}
        case $list in
        *"
"*) list=${list#*"
"} ;;
        *) list= ;;
        esac
        if [ ! -x "$step" ]; then
            say "$step is left out: it is not executable"
            continue
        fi
        case $step in
        *.envsh)
            say "reading $step"
            . "$step"
            ;;
        *.sh)
            say "running $step"
            "$step"
            ;;
        *) say "$step is left out: its name ends neither in .sh nor in .envsh" ;;
        esac
    done
    ;;
esac

exec "$@"
