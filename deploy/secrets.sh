#!/bin/sh
# Makes the secrets of docker-compose.production.yml, each a file in deploy/secrets. A file that exists is kept.
#   sh deploy/secrets.sh             passwords of PostgreSQL, Redis and Grafana
#   sh deploy/secrets.sh user NAME   somebody who may use the service; asks for the password, or reads it from a pipe
# STT_SECRETS names another folder, CADDY another way to run caddy.
set -eu
umask 077
folder=${STT_SECRETS:-$(dirname "$0")/secrets}
caddy=${CADDY:-docker run --rm --interactive caddy:2.11.7-alpine caddy}

# The folder is closed to other users. The files are not: the containers that get one run as users of their own.
mkdir -p "$folder"
chmod 700 "$folder"

write() {  # NAME: standard input
    cat > "$folder/$1.new"
    chmod 444 "$folder/$1.new"
    mv "$folder/$1.new" "$folder/$1"
}

password() {  # NAME: makes it, if it is missing
    [ -e "$folder/$1" ] || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' | write "$1"
    cat "$folder/$1"
}

servers() {
    postgres=$(password postgres_password)
    redis=$(password redis_password)
    password grafana_password > /dev/null
    printf 'postgresql://stt:%s@postgres:5432/stt' "$postgres" | write database_url
    printf 'redis://:%s@redis:6379/0' "$redis" | write redis_url
    hash=$(printf '%s' "$redis" | sha256sum | cut -d ' ' -f 1)
    printf 'user default on #%s ~* &* +@all\n' "$hash" | write redis_acl
    echo "$folder holds the passwords of the servers."
    [ -s "$folder/proxy_users" ] || echo "Nobody may use the service yet: sh $0 user NAME"
}

user() {  # NAME
    case $1 in
    '' | *[!A-Za-z0-9._@-]*) echo "A name has letters, digits and . _ @ - only." >&2; exit 2 ;;
    esac
    if [ -t 0 ]; then
        printf 'Password of %s: ' "$1" >&2
        trap 'stty echo' EXIT
        stty -echo
        IFS= read -r secret
        stty echo
        trap - EXIT
        echo >&2
    else
        IFS= read -r secret || [ -n "$secret" ]
    fi
    [ ${#secret} -ge 12 ] || { echo "The password has less than 12 characters." >&2; exit 2; }
    # shellcheck disable=SC2086  # a command and its arguments
    hash=$(printf '%s\n' "$secret" | $caddy hash-password --bcrypt-cost 12)
    [ -n "$hash" ] || { echo "caddy gave no hash." >&2; exit 1; }
    {
        [ ! -e "$folder/proxy_users" ] || awk -v name="$1" '$1 != name' "$folder/proxy_users"
        printf '%s %s\n' "$1" "$hash"
    } | write proxy_users
    echo "$1 may use the service, once the proxy has been restarted."
}

case ${1-} in
'') servers ;;
user) user "${2-}" ;;
*) echo "usage: $0 [user NAME]" >&2; exit 2 ;;
esac
