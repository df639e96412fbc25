#!/bin/sh
# image-root.sh BINARY ROOT: fills the new directory ROOT with all that `Dockerfile.runtime` puts into its image.
set -eu
binary=$(realpath "$1")
root=$2
conf=$(cd "$(dirname "$0")/../conf" && pwd)

mkdir -p "$root"
cd "$root"
mkdir -p usr/sbin usr/bin etc/nginx/conf.d etc/ssl/certs run tmp \
    var/log/nginx var/cache/nginx var/lib/nginx usr/share/nginx/html
chmod 1777 tmp
ln -s /run var/run

# install_program FROM TO: a program and the libraries that it loads, each at its own path.
install_program() {
    cp "$1" "$2"
    for library in $(ldd "$1" | grep -o '/[^ ]*'); do
        mkdir -p ".$(dirname "$library")"
        cp -L "$library" ".$library"
    done
}
install_program "$binary" usr/sbin/edgewater
install_program "$(command -v curl)" usr/bin/curl
ln -s edgewater usr/sbin/nginx

cat >etc/passwd <<'TEXT'
root:x:0:0:root:/:/bin/false
nginx:x:101:101:nginx:/nonexistent:/bin/false
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
TEXT
printf 'root:x:0:\nnginx:x:101:\nnogroup:x:65534:\n' >etc/group
cp -L /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/
ln -s /dev/stdout var/log/nginx/access.log
ln -s /dev/stderr var/log/nginx/error.log
cp "$conf/nginx.conf" "$conf/mime.types" etc/nginx/
cp "$conf"/conf.d/* etc/nginx/conf.d/
cp "$conf"/html/* usr/share/nginx/html/
