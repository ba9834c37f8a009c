# syntax=docker/dockerfile:1
# Two stages: Rust to build, a bare Debian to run (the binary needs glibc and nothing else).
# The bases are arguments, so that an image can be built where only a registry of one's own can be reached;
# scripts/image.sh shows how, down to bases made by debootstrap.
ARG BUILD_IMAGE=rust:1.95-bookworm
ARG RUN_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
# Cargo wants the files of every target that the manifest names, even when it does not build them.
COPY benches benches
COPY tests tests
RUN cargo build --release --locked --bin sidecache \
    && strip --strip-debug -o /sidecache target/release/sidecache

FROM ${RUN_IMAGE}
COPY --from=build /sidecache /usr/local/bin/sidecache
# No name, no shell, no home: whatever runs here owns nothing.
USER 65532:65532
# Clients and metrics; both on 127.0.0.1 unless configured otherwise, as befits a sidecar in its application's network.
EXPOSE 6380 9180
# SIGTERM drains; the runtime must grant more than client.drain_timeout (10 s) before it kills.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/sidecache"]
