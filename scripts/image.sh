#!/usr/bin/env bash
# Builds the container image as `sidecache` with whichever of docker, podman and buildah is here.
#
#   scripts/image.sh          from the usual bases (see the Dockerfile); BUILD_IMAGE and RUN_IMAGE name others
#   scripts/image.sh local    without any registry: makes both bases with debootstrap and this machine's own Rust
#                             toolchain, and builds the same Dockerfile with buildah; Debian 12, as root
#
# IMAGE names the result (sidecache:latest).
set -euo pipefail
cd "$(dirname "$0")/.."
image=${IMAGE:-sidecache:latest}

fail() { printf 'image: %s\n' "$*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

usual() {
    local args=()
    [ -z "${BUILD_IMAGE:-}" ] || args+=(--build-arg "BUILD_IMAGE=$BUILD_IMAGE")
    [ -z "${RUN_IMAGE:-}" ] || args+=(--build-arg "RUN_IMAGE=$RUN_IMAGE")
    if has docker; then
        docker build "${args[@]}" -t "$image" .
    elif has podman; then
        podman build "${args[@]}" -t "$image" .
    elif has buildah; then
        buildah build "${args[@]}" -t "$image" .
    else
        fail "needs docker, podman or buildah"
    fi
}

# A base image of a folder's content, with these variables set in it.
base_of() {
    local folder=$1 name=$2 container
    shift 2
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$folder" / >/dev/null
    buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "${@/#/--env=}" "$container"
    buildah commit --quiet --rm "$container" "$name" >/dev/null
}

local_bases() {
    [ "$(id -u)" = 0 ] || fail "local: must be root (debootstrap, chroot)"
    for program in buildah debootstrap cargo rustc; do
        has "$program" || fail "local: no $program (Debian: apt-get install buildah debootstrap)"
    done
    export STORAGE_DRIVER=${STORAGE_DRIVER:-vfs}
    # Made once; `buildah rmi` of both makes the next run begin anew, as after an update of the toolchain or of Cargo.lock.
    if buildah inspect --type image localhost/sidecache-build >/dev/null 2>&1; then return; fi
    local folder
    folder=$(mktemp -d)
    # shellcheck disable=SC2064  # the folder's name as it is now
    trap "rm -rf '$folder'" EXIT

    debootstrap --variant=minbase bookworm "$folder/run" >"$folder/log" 2>&1 || { tail "$folder/log" >&2; fail "debootstrap failed"; }
    rm -rf "$folder"/run/var/cache/apt/archives/*.deb "$folder"/run/var/lib/apt/lists/*
    base_of "$folder/run" localhost/sidecache-run

    # The build's base: the same with a linker, this machine's toolchain and the crates that it has fetched already.
    debootstrap --variant=minbase --include=gcc,libc6-dev,ca-certificates bookworm "$folder/build" >"$folder/log" 2>&1 ||
        { tail "$folder/log" >&2; fail "debootstrap failed"; }
    mkdir -p "$folder/build/usr/local/cargo"
    cp -r "$(rustc --print sysroot)/." "$folder/build/usr/local/"
    cargo fetch --quiet --locked
    cp -r "${CARGO_HOME:-$HOME/.cargo}/registry" "$folder/build/usr/local/cargo/"
    # The crates are all there: what is built is what was locked, whatever the network does.
    base_of "$folder/build" localhost/sidecache-build CARGO_HOME=/usr/local/cargo CARGO_NET_OFFLINE=true
}

case ${1:-} in
    '') usual ;;
    local)
        local_bases
        buildah build --isolation chroot --build-arg BUILD_IMAGE=localhost/sidecache-build \
            --build-arg RUN_IMAGE=localhost/sidecache-run -t "$image" .
        ;;
    *) fail "what is '$1'? (nothing, or local)" ;;
esac
printf 'image: built %s\n' "$image"
