#!/bin/sh
# Makes the certificates of a run's pods without cert-manager: an authority, and one certificate that scheduler, workers
# and driver share. The authority's key is never kept, so that nobody can make another member; who needs a new
# certificate makes a new authority, too.
set -eu

usage() {
    cat <<'USAGE'
usage: make.sh [-d DAYS] [-o FOLDER] [NAMESPACE]

Makes the Secret dask-tls in NAMESPACE, from which pods take their certificate. Without NAMESPACE only files are made,
and the command that makes the Secret of them is printed.

  -d DAYS    how long the certificate is valid, default 365: longer than the longest run
  -o FOLDER  keep ca.crt, tls.crt and tls.key in FOLDER, which must not exist yet, for a client outside the cluster
  -h         show this

A Secret that is there is left alone: pods that are added to a run must have the certificate of the others. When no run
is going on, kubectl delete secret dask-tls --namespace NAMESPACE makes room for a new one.
USAGE
}

fail() {
    echo "error: $*" >&2
    exit 1
}

days=365
folder=
while getopts d:o:h option; do
    case $option in
    d) days=$OPTARG ;;
    o) folder=$OPTARG ;;
    h)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
done
shift $((OPTIND - 1))
namespace=${1-}
[ $# -le 1 ] || fail "one NAMESPACE, got: $*"
[ -n "$namespace" ] || [ -n "$folder" ] || fail "name the NAMESPACE, or with -o a folder for the files (-h for help)"
case $days in
'' | 0* | *[!0-9]*) fail "-d is '$days', expected a number of days" ;;
esac
command -v openssl >/dev/null || fail "openssl is not installed"
[ -z "$namespace" ] || command -v kubectl >/dev/null || fail "kubectl is not installed; -o FOLDER alone makes the files"
[ -z "$folder" ] || [ ! -e "$folder" ] || fail "-o is '$folder', which exists; expected the name of a new folder"
[ -z "$folder" ] || [ -d "$(dirname "$folder")" ] || fail "-o is '$folder', expected a folder in one that exists"

umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
made=$work/dask-tls
mkdir "$made"

openssl_or_fail() {
    openssl "$@" 2>"$work/told" || fail "openssl $1: $(cat "$work/told")"
}

# Dask compares no names; who has a certificate of this authority belongs.
cat >"$work/settings" <<'SETTINGS'
[req]
distinguished_name = none
prompt = no
[none]
CN = none
[authority]
basicConstraints = critical, CA:true, pathlen:0
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[member]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:spender
SETTINGS

for key in "$work/ca.key" "$made/tls.key"; do
    openssl_or_fail ecparam -name prime256v1 -genkey -noout -out "$key"
done
openssl_or_fail req -new -x509 -sha256 -config "$work/settings" -extensions authority -subj /CN=spender-authority \
    -key "$work/ca.key" -days "$days" -out "$made/ca.crt"
openssl_or_fail req -new -sha256 -config "$work/settings" -subj /CN=spender -key "$made/tls.key" -out "$work/tls.csr"
openssl_or_fail x509 -req -sha256 -in "$work/tls.csr" -CA "$made/ca.crt" -CAkey "$work/ca.key" -set_serial 1 \
    -extfile "$work/settings" -extensions member -days "$days" -out "$made/tls.crt"

secret() { # how: command does it, echo shows it; namespace; folder
    "$1" kubectl create secret generic dask-tls --namespace "$2" \
        --from-file="$3/ca.crt" --from-file="$3/tls.crt" --from-file="$3/tls.key"
}

[ -z "$namespace" ] || secret command "$namespace" "$made" || fail "no Secret dask-tls was made in $namespace"
[ -z "$folder" ] || cp -R "$made" "$folder" || fail "the files could not be kept in $folder"
[ -n "$namespace" ] || secret echo NAMESPACE "$folder"
