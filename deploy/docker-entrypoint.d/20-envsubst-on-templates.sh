#!/bin/sh
# Templates become configuration files: ${NAME} and $NAME are replaced where NAME is a variable of the environment,
# and stay as they are where it is not, as nginx's own variables do.
#
# NGINX_ENVSUBST_TEMPLATE_DIR      where templates are (/etc/nginx/templates)
# NGINX_ENVSUBST_TEMPLATE_SUFFIX   what their names end in, and lose (.template)
# NGINX_ENVSUBST_OUTPUT_DIR        where the files go (/etc/nginx/conf.d)
# NGINX_ENVSUBST_FILTER            a regular expression: only variables whose names match
set -e

root=${EDGEWATER_ROOT:-}
from=${NGINX_ENVSUBST_TEMPLATE_DIR:-$root/etc/nginx/templates}
suffix=${NGINX_ENVSUBST_TEMPLATE_SUFFIX:-.template}
to=${NGINX_ENVSUBST_OUTPUT_DIR:-$root/etc/nginx/conf.d}

say() {
    [ -n "${NGINX_ENTRYPOINT_QUIET_LOGS:-}" ] || echo "${0##*/}: $*"
}

[ -d "$from" ] || exit 0
if [ ! -w "$to" ]; then
    echo "${0##*/}: there are templates in $from, but $to cannot be written" >&2
    exit 0
fi

# The names are given to envsubst; without them it would empty what it does not know.
names=$(NGINX_ENVSUBST_FILTER=${NGINX_ENVSUBST_FILTER:-} awk 'BEGIN {
    for (name in ENVIRON)
        if (name ~ /^[A-Za-z_][A-Za-z0-9_]*$/ && name ~ ENVIRON["NGINX_ENVSUBST_FILTER"])
            printf "${%s} ", name
}')

find -L "$from" -type f -name "*$suffix" | while read -r template; do
    name=${template#"$from"/}
    file=$to/${name%"$suffix"}
    mkdir -p "${file%/*}"
    say "$template becomes $file"
    envsubst "$names" <"$template" >"$file"
done

streams=$(find -L "$from" -type f -name "*${NGINX_ENVSUBST_STREAM_TEMPLATE_SUFFIX:-.stream-template}")
if [ -n "$streams" ]; then
    echo "${0##*/}: left out, as only HTTP is served:" $streams >&2
fi
