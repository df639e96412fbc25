#!/bin/sh
# Makes sure that what a make target needs is on this machine.
#
#   setup.sh build   a C tool-chain (for the cryptography library)
#   setup.sh test    that, and the real clients and peers of the tests
#   setup.sh bench   that, and the peers and load generators of the measurements
#
# As root on Debian or Ubuntu what is missing is installed. Otherwise it is named, with the command that
# installs it, and the exit status is 1. Nothing that a package would start is left running.
set -eu

# One line for each need: the command that proves it is there, then the Debian package that brings it.
build_needs='cc:gcc
c++:g++
make:make
cmake:cmake
pkg-config:pkg-config'

test_needs='nginx:nginx
ffmpeg:ffmpeg
chromium:chromium
chromedriver:chromium-driver
curl:curl
openssl:openssl
envsubst:gettext-base
nghttp:nghttp2-client
promtool:prometheus'

# Only root can start a Docker engine; for others the test that needs one says that it is skipped.
docker_needs='dockerd:docker.io
docker:docker-cli
iptables:iptables
docker-compose:docker-compose'
[ "$(id -u)" -ne 0 ] || test_needs="$test_needs
$docker_needs"

bench_needs='nginx:nginx
curl:curl
openssl:openssl
h2load:nghttp2-client
wrk:wrk'

# Peers of the measurements that need not be there: the cells of one that is missing are left out.
bench_wishes='varnishd:varnish
haproxy:haproxy
h2o:h2o'
wishes=

case "${1:-test}" in
build) needs=$build_needs ;;
test) needs="$build_needs
$test_needs" ;;
bench) needs="$build_needs
$bench_needs"
    wishes=$bench_wishes ;;
*)
    echo "usage: $0 build|test|bench" >&2
    exit 2
    ;;
esac

# Servers live in sbin, which is not in every user's path.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

# A minimal tool-chain has no formatter and no linter.
rust() {
    if ! command -v cargo >/dev/null; then
        echo 'Missing: a Rust tool-chain, 1.90 or later. See https://rustup.rs.' >&2
        exit 1
    fi
    cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
    cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
}

# The packages to install. Where docker.io is still missing it may well bring `docker` too (Debian 12).
missing() {
    for need in $needs; do
        command -v "${need%%:*}" >/dev/null || echo "${need#*:}"
    done | if command -v dockerd >/dev/null; then cat; else grep -v '^docker-cli$' || true; fi
    # Crates come over TLS, and an upstream's certificate is checked against these authorities.
    [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
}

# Debian asks this file before a package starts its service. One that is there already is left as it is.
policy=/usr/sbin/policy-rc.d
made_policy=no
forbid_services() {
    [ -e $policy ] && return
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    made_policy=yes
}
allow_services() {
    if [ $made_policy = yes ]; then rm -f $policy; fi
    made_policy=no
}

# Word splitting of the list of packages is meant.
# shellcheck disable=SC2086
install_packages() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -q --no-install-recommends $1 && return
    # The lists may be missing, as in a fresh image, or too old.
    apt-get update -q
    apt-get install -y -q --no-install-recommends $1
}

# A package enables its service for the next start of the machine; a test machine wants none of them.
disable_services() {
    [ -d /run/systemd/system ] || return 0
    for package in $1; do
        case $package in
        nginx) systemctl disable --now nginx ;;
        prometheus) systemctl disable --now prometheus ;;
        varnish) systemctl disable --now varnish varnishncsa ;;
        haproxy) systemctl disable --now haproxy ;;
        h2o) systemctl disable --now h2o ;;
        docker.io) systemctl disable --now docker.service docker.socket containerd.service ;;
        esac 2>/dev/null || true
    done
}

install_wishes() {
    for wish in $wishes; do
        command -v "${wish%%:*}" >/dev/null && continue
        package=${wish#*:}
        if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
            echo "Installing $package"
            (trap allow_services EXIT && forbid_services && install_packages "$package") &&
                disable_services "$package" && continue
        fi
        echo "Left out of the measurement, since it is not installed: $package" >&2
    done
}

rust
install_wishes
# The second round is for Debian 13, where the docker.io package no longer brings the command line.
for round in 1 2; do
    packages=$(missing | sort -u | tr '\n' ' ')
    [ -n "$packages" ] || exit 0
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "Missing on this machine: $packages" >&2
        echo "On Debian or Ubuntu: sudo apt-get install --no-install-recommends $packages" >&2
        exit 1
    fi
    echo "Installing $packages"
    trap allow_services EXIT
    forbid_services
    install_packages "$packages"
    disable_services "$packages"
done
packages=$(missing | sort -u | tr '\n' ' ')
[ -z "$packages" ] || echo "Still missing after the installation: $packages" >&2
[ -z "$packages" ]
