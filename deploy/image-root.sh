#!/bin/sh
# image-root.sh BINARY ROOT: fills the new directory ROOT with all that `Dockerfile.runtime` puts into its image.
set -eu
binary=$(realpath "$1")
root=$2
deploy=$(cd "$(dirname "$0")" && pwd)
conf=$deploy/../conf

mkdir -p "$root"
cd "$root"
mkdir -p usr/sbin usr/bin etc/nginx/conf.d etc/ssl/certs run tmp \
    var/log/nginx var/cache/nginx var/lib/nginx usr/share/nginx/html usr/share/edgewater
chmod 1777 tmp
ln -s /run var/run
ln -s usr/bin bin

# install_program FROM TO: a program and the libraries that it loads, each at its own path.
install_program() {
    cp "$1" "$2"
    for library in $(ldd "$1" | grep -o '/[^ ]*'); do
        mkdir -p ".$(dirname "$library")"
        cp -L "$library" ".$library"
    done
}
install_program "$binary" usr/sbin/edgewater
# curl is for the health check, the others are for the entrypoint.
for program in curl sh awk cat envsubst find mkdir nproc sed sort; do
    install_program "$(command -v $program)" usr/bin/$program
done
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
cp "$conf/conf.d/default.conf" usr/share/edgewater/
cp -R "$deploy/docker-entrypoint.sh" "$deploy/docker-entrypoint.d" .
cp "$conf"/html/* usr/share/nginx/html/
