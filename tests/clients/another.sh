#!/bin/sh
# For programs that do one thing at a time, the other connection; started in the background.
#   another.sh PORT OUTSIDE push KEY VALUE          RPUSH as soon as somebody waits in a BLPOP
#   another.sh PORT OUTSIDE publish CHANNEL TEXT    PUBLISH as soon as somebody has subscribed
port=$1 outside=$2 what=$3
shift 3
tries=0
again() { tries=$((tries + 1)) && [ "$tries" -lt 2000 ]; }
case $what in
    push)
        until redis-cli -p "$outside" CLIENT LIST | grep -q 'flags=[a-zA-Z]*b[a-zA-Z]* .*cmd=blpop'; do again || exit 1; done
        redis-cli -p "$port" RPUSH "$@" ;;
    publish)
        until [ "$(redis-cli -p "$port" PUBLISH "$@")" -gt 0 ]; do again || exit 1; done ;;
esac
