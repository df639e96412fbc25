#!/bin/sh
# Takes a version of the h2 crate and makes our change to it: vendor/update.sh 0.4.20
set -eu
cd "$(dirname "$0")"
version=${1:?which version of h2?}
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
curl -fsSL "https://static.crates.io/crates/h2/h2-$version.crate" | tar -xz -C "$new"
# What a build does not need stays away.
mkdir "$new/h2"
for part in Cargo.toml LICENSE README.md src; do
    mv "$new/h2-$version/$part" "$new/h2/"
done
patch -p1 -d "$new/h2" <h2.patch
rm -rf h2
mv "$new/h2" h2
