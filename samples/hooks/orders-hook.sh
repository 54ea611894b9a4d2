#!/bin/sh
# A program for the adapter `exec` that runs through the whole hold. It keeps the writers of an application out that take
# a lock of a file, with flock(1), for each write.
#
#     appvss adapter:  command = ["/usr/local/libexec/orders-hook", "/srv/orders"]
#
# One line comes on standard input, one answer goes to standard output. What is for people goes to standard error.

set -u
home=$1
lock=$home/lock

release() {
    exec 9>&- # whoever closes a file gives up its lock
}

while read -r word cycle budget limit; do
    case $word in
    PREFLIGHT)
        echo "VERSION orders-hook 1"
        echo "VOLUME data $home"
        [ -w "$lock" ] || echo "PROBLEM $lock cannot be written"
        echo "READY"
        ;;
    PREPARE)
        sync
        echo "READY"
        ;;
    FREEZE)
        exec 9>>"$lock"
        if flock --exclusive --wait "$((${budget%.*} / 2))" 9; then # an answer after the budget is none
            echo "$cycle" >"$home/marker"
            sync "$home/marker"
            echo "HELD {\"position\": \"$(wc -l <"$home/journal")\", \"marker\": \"$cycle\", \"data_directory\": \"$home\"}"
        else
            release
            echo "BUSY a writer did not come to its end within $budget s"
        fi
        ;;
    THAW | ABORT)
        release
        echo "RELEASED {}"
        ;;
    *)
        echo "UNKNOWN"
        ;;
    esac
done
# Standard input has ended: whoever has asked is gone. The lock ends with this program.
