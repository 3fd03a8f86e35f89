#!/bin/sh
# Install those of the named Debian packages that are missing, without starting the services that they bring, now
# or at the next boot.
set -eu
policy=/usr/sbin/policy-rc.d
clusters=/etc/postgresql-common/createcluster.d/stt-tests.conf

missing=
for package in "$@"; do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

trap 'rm -f $made' EXIT
made=$clusters
mkdir -p "${clusters%/*}"
echo "create_main_cluster = false" >"$clusters"  # else postgresql makes a database of its own
if [ ! -e "$policy" ]; then  # dpkg asks it whether a service may be started; 101 means no
    made="$made $policy"
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi

apt-get update -qq
for package in $missing; do  # one by one: another release may not have all of them
    echo "installing $package"
    if DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null; then
        ! command -v systemctl >/dev/null || systemctl --quiet disable "${package%-15}.service" || true
    else
        echo "$package could not be installed: the tests that need it are skipped." >&2
    fi
done
