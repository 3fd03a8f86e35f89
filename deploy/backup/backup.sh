#!/bin/sh
# Dumps the database with pg_dump, and keeps the dumps of some days.
#   backup.sh now       one dump; exit code 1 if it failed
#   backup.sh nightly   one at the start if there is none of the last day, then one each day at BACKUP_TIME
#   backup.sh restore FILE   put a dump in the place of the database, which is kept under another name
#   backup.sh check     exit code 1 if the newest dump is older than 26 hours; the container's health
# PGHOST, PGUSER, PGDATABASE and the like say which database; its password is in the file BACKUP_PASSWORD_FILE.
# BACKUP_FOLDER receives `NAME-TIME.dump`. With BACKUP_METRICS, a folder, Prometheus learns of the last success.
set -eu
umask 077
folder=${BACKUP_FOLDER:?}
database=${PGDATABASE:?}
days=${BACKUP_DAYS:-14}
time=${BACKUP_TIME:-02:30}
[ -z "${BACKUP_PASSWORD_FILE-}" ] || PGPASSWORD=$(cat "$BACKUP_PASSWORD_FILE")
[ -z "${PGPASSWORD-}" ] || export PGPASSWORD

case $days in '' | *[!0-9]* | 0) echo "BACKUP_DAYS must be a number from 1." >&2; exit 2 ;; esac

say() {  # LEVEL EVENT: a line like those of the service
    printf '{"timestamp":"%s","level":"%s","event":"%s","logger":"backup","role":"backup"}\n' \
        "$(date -u +%Y-%m-%dT%H:%M:%S.000Z)" "$1" "$2" >&2
}

newest() {
    find "$folder" -maxdepth 1 -name "$database-*.dump" | sort | tail -n 1
}

fresh() {  # MINUTES: whether the newest dump is not older
    found=$(newest)
    [ -n "$found" ] && [ -n "$(find "$found" -mmin "-$1")" ]
}

export_success() {
    [ -n "${BACKUP_METRICS-}" ] || return 0
    found=$(newest)
    [ -n "$found" ] || return 0
    name=stt_backup_last_success_timestamp_seconds
    printf '# HELP %s When the newest dump of the database was made, in Unix time.\n# TYPE %s gauge\n%s %s\n' \
        "$name" "$name" "$name" "$(date -r "$found" +%s)" > "$BACKUP_METRICS/backup.prom.new"
    chmod 644 "$BACKUP_METRICS/backup.prom.new"  # another container reads it, as another user
    mv "$BACKUP_METRICS/backup.prom.new" "$BACKUP_METRICS/backup.prom"
}

# A dump has its name only when it is complete and has been read once, all of it.
dump() {
    partial=$folder/.$database.$$.partial  # two dumps at a time do not meet
    find "$folder" -maxdepth 1 -name ".$database.*partial" -mmin +1440 -exec rm -f {} +
    if pg_dump --format=custom --no-password --file="$partial" &&
        pg_restore --file=/dev/null "$partial" &&
        sync "$partial" &&
        mv "$partial" "$folder/$database-$(date -u +%Y%m%dT%H%M%SZ).dump"; then
        find "$folder" -maxdepth 1 -name "$database-*.dump" -mtime "+$((days - 1))" -exec rm -f {} +
        export_success
        say info "database dumped"
    else
        rm -f "$partial"
        say error "database not dumped"
        return 1
    fi
}

# Into a new database first: a dump that cannot be restored changes nothing.
restore() {  # FILE
    [ -r "$1" ] || { echo "$1 cannot be read." >&2; exit 2; }
    new=${database}_restored
    before=${database}_before_$(date -u +%Y%m%d%H%M%S)
    dropdb --no-password --if-exists "$new"
    createdb --no-password "$new"
    pg_restore --no-password --exit-on-error --no-owner --dbname="$new" "$1"
    psql --no-password --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --single-transaction --dbname=postgres \
        --command="alter database \"$database\" rename to \"$before\"" \
        --command="alter database \"$new\" rename to \"$database\""
    echo "$database is now what $1 holds; what it was before is in the database $before."
}

seconds_until() {  # HH:MM in UTC
    now=$(date -u +%H:%M:%S)
    at=$(in_seconds "$1:00")
    echo $(((at - $(in_seconds "$now") + 86399) % 86400 + 1))
}

in_seconds() {  # HH:MM:SS; a leading 0 would mean octal
    h=${1%%:*} m=${1#*:} s=${1##*:}
    m=${m%%:*}
    echo $((${h#0} * 3600 + ${m#0} * 60 + ${s#0}))
}

nightly() {
    trap 'exit 0' TERM INT
    export_success
    fresh 1440 || dump || true
    while :; do
        wait_seconds=$(seconds_until "$time")
        # After a failure it tries again each hour.
        fresh 1440 || [ "$wait_seconds" -lt 3600 ] || wait_seconds=3600
        sleep "$wait_seconds" &
        wait $!
        dump || true
    done
}

case ${1-} in
now) dump ;;
nightly) nightly ;;
restore) restore "${2:?the file of the dump}" ;;
check) fresh 1560 ;;
*) echo "usage: $0 now|nightly|restore FILE|check" >&2; exit 2 ;;
esac
