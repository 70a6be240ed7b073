# make run     a shop on http://127.0.0.1:8080, on a Postgres of its own
# make test    everything that is checked: form, lints, every test
# make check   form and lints alone
# make bench   figures, each beside its baseline and its limit; PART="hot checkouts", SECONDS=8, ROWS=10000000 narrow it or not
# make soak    ten minutes (SOUK_SOAK_SECONDS) of buyers while engine and Postgres are killed again and again; ends with a
#              verdict and a clean audit. The same again by SOUK_SOAK_SEED, which it prints
# make clients the provider sandbox, driven through the providers' own clients (needs python3, npm and their registries)
# make prepare what the others need and a fresh machine lacks

.PHONY: run test check bench soak clients prepare

ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

run: prepare
	@echo "Building (the first time takes minutes) …"
	cargo build --release --locked
	./target/release/souk serve

test: check
	cargo test --workspace --locked --no-fail-fast

check: prepare
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

bench: prepare
	cargo bench --locked --bench figures -- $(PART) $(if $(SECONDS),seconds=$(SECONDS)) $(if $(ROWS),rows=$(ROWS))

soak: prepare
	cargo test --release --locked --test it -- --ignored --exact hammer::soaked --nocapture

clients: prepare
	./tests/clients/run.sh

prepare:
	@command -v cargo >/dev/null || { \
	    echo "Rust is missing: see https://rustup.rs (1.95 or newer)"; exit 1; }
	@command -v cc >/dev/null || { \
	    command -v apt-get >/dev/null || { echo "A C compiler is missing (cc)"; exit 1; }; \
	    echo "Installing the Debian package gcc and libc6-dev …"; \
	    $(ROOT) apt-get update -q && $(ROOT) apt-get install -qy gcc libc6-dev; }
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb \
	    /opt/homebrew/opt/postgresql@*/bin/initdb /usr/local/opt/postgresql@*/bin/initdb >/dev/null 2>&1 \
	    || [ -n "$$SOUK_POSTGRES_BIN" ] || { \
	    command -v apt-get >/dev/null || { \
	        echo "PostgreSQL is missing: install version 14 or newer (macOS: brew install postgresql@17)"; exit 1; }; \
	    echo "Installing the Debian package postgresql …"; \
	    $(ROOT) apt-get update -q && $(ROOT) apt-get install -qy postgresql; }
