#!/bin/sh
# A GPS receiver that speaks when it is asked: samples/gps.sh [PORT]
#
# It answers each line with its next sentence, and hangs up when there is none left. For socat, which
# runs it once more for every connection.
sentences=$(dirname "$0")/devices/nmea.txt
if [ "$1" = --answer ]; then
    exec 3<"$sentences"
    while read -r question && IFS= read -r sentence <&3; do
        printf '%s\n' "$sentence"
    done
else
    exec socat "TCP-LISTEN:${1:-4001},reuseaddr,fork" EXEC:"$0 --answer"
fi
