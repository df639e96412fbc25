# What a person does with this repository. `make` alone prints the list.
CARGO  ?= cargo
BINARY := target/release/edgewater
# Where nginx and dockerd live; not in every user's path.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

.DEFAULT_GOAL := help
.PHONY: help demo build test check setup parity parity-random fuzz bench image docs golden clean

help: ## this list
	@echo 'Edgewater: an edge server that reads nginx.conf.'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

demo: ## build, then serve an endless live stream on https://localhost:8443
	@sh tests/setup.sh build
	$(CARGO) build --release
	@sh deploy/demo.sh $(BINARY)

build: ## the optimised server, in target/release
	@sh tests/setup.sh build
	$(CARGO) build --release

test: setup check ## formatting, lints and every test (installs the real clients and nginx where it may)
	$(CARGO) test

check: ## formatting and lints only
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings

setup: ## what the tests need: nginx, ffmpeg, Chromium, Docker ...
	@sh tests/setup.sh test

parity: ## Edgewater and nginx side by side; CASE=name runs the cases whose name holds it
	env -u CASE $(CARGO) test --test parity -- $(CASE)

parity-random: ## random configurations and requests on both; RANDOM_REQUESTS=10000 SEED=1 say how many and which
	RANDOM_REQUESTS=$${RANDOM_REQUESTS:-10000} $(CARGO) test --test parity -- random

fuzz: ## broken configurations by the million; FUZZ_SECONDS=600 is how long
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} FUZZ_SEED=$$(date +%s) nice $(CARGO) test --test fuzz

bench: ## everything measured beside nginx and others; CELL="h2 1k" or CELL=idle a part, PEER=/path/to/nginx another nginx
	@sh tests/setup.sh bench
	PEER='$(PEER)' $(CARGO) bench --bench side_by_side -- $(CELL)

image: ## the Docker image `edgewater`
	docker build -t edgewater -f deploy/Dockerfile .

golden: ## the resolved configurations of tests/golden, anew
	UPDATE=1 $(CARGO) test --test golden

docs: ## docs/nginx-support.md, anew from the tables of directives and variables
	UPDATE=1 $(CARGO) test --lib conf::matrix

clean: ## what the build and the tests made
	$(CARGO) clean
