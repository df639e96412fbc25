#!/bin/sh
# Makes the development certificate anew: dev.pem and dev.key, ECDSA P-256, self-signed, valid for ten years.
# Needs openssl 1.1.1 or newer.
set -eu
cd "$(dirname "$0")"

openssl req -x509 -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -days 3650 \
    -keyout dev.key -out dev.pem \
    -subj "/O=Edgewater development/CN=localhost" \
    -addext "subjectAltName=DNS:localhost,DNS:*.localhost,DNS:shop.example,IP:127.0.0.1,IP:::1" \
    -addext "basicConstraints=critical,CA:FALSE" \
    -addext "keyUsage=critical,digitalSignature" \
    -addext "extendedKeyUsage=serverAuth"

openssl x509 -in dev.pem -noout -subject -enddate -ext subjectAltName -fingerprint -sha256
