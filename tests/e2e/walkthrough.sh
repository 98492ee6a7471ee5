#!/usr/bin/env bash
# A published CFSSL walkthrough, line by line, with ocspd in place of cfssl and cfssljson. Needs in the
# environment: OCSPD (the program), DB_CONFIG (JSON), API_PORT, OCSP_PORT, and an empty working directory.
# LINKS, if it is set, is a directory with links to the program under CFSSL's names, which are then used.
# Prints one line per question: NAME STATUS verified|unverified.
set -euo pipefail
shopt -s expand_aliases
alias ocspd="$OCSPD"
if [[ -n ${LINKS:-} ]]; then
  PATH=$LINKS:$PATH
else
  alias cfssl="$OCSPD"
  alias cfssljson="$OCSPD json"
fi

background=()
trap 'kill "${background[@]}" 2>/dev/null || true; wait' EXIT

wait_for() { # URL LOG PID: until the server answers
  for _ in $(seq 300); do
    curl --silent --noproxy '*' --output /dev/null "$1" && return
    kill -0 "$3" 2>/dev/null || break
    sleep 0.05
  done
  echo "no answer from $1" >&2
  cat "$2" >&2
  return 1
}

ask() { # CERTIFICATE [FLAG]...: openssl's verdict in one line
  local text status=none verified=unverified
  text=$(openssl ocsp -issuer bundle.pem -no_nonce "${@:2}" -cert "$1.pem" -CAfile bundle.pem -text \
    -url "http://localhost:$OCSP_PORT" 2>&1) || true
  [[ $text =~ $1\.pem:\ ([a-z]+) ]] && status=${BASH_REMATCH[1]}
  [[ $text =~ Responder\ Error:\ ([a-z]+) ]] && status=${BASH_REMATCH[1]}
  [[ $text == *"Response verify OK"* ]] && verified=verified
  [[ $status != none ]] || echo "$text" >&2
  echo "$1 $status $verified"
}

ask_until() { # STATUS CERTIFICATE: ask again for a while
  local line
  for _ in $(seq 100); do
    line=$(ask "$2")
    [[ $line == *" $1 "* ]] && break
    sleep 0.1
  done
  echo "$line"
}

crl_check() { # CERTIFICATE STATUS: openssl's verdict by the CRL that the certificate points to, asked for a while
  local text verdict
  for _ in $(seq 100); do
    verdict=ok
    if ! text=$(openssl verify -crl_check -crl_download -CAfile bundle.pem "$1.pem" 2>&1); then
      verdict=failed
      [[ $text == *"certificate revoked"* ]] && verdict=revoked
    fi
    [[ $verdict != "$2" ]] || break
    sleep 0.1
  done
  [[ $verdict == "$2" ]] || echo "$text" >&2
  echo "$1 crl $verdict"
}

field() { openssl x509 -in "$1.pem" -noout "${@:2}"; }
serial() { # decimal, as certdb has it
  python3 -c 'import sys; print(int(sys.argv[1], 16))' "$(field "$1" -serial | cut -d= -f2)"
}
aki() { field "$1" -ext authorityKeyIdentifier | tail -n 1 | sed 's/.*keyid://' | tr -d ' :\n' | tr 'A-F' 'a-f'; }

printf '%s\n' "$DB_CONFIG" >db-pg.json
# goose -path $GOPATH/src/github.com/cloudflare/cfssl/certdb/pg up
ocspd db up -db-config db-pg.json >migrations.txt

cat >ca-csr.json <<'JSON'
{
 "CN": "My PoC root CA",
 "key": {
    "algo": "ecdsa",
    "size": 256
 },
 "names": [
    {
       "C": "FR",
       "L": "Toulouse",
       "OU": "ACME operations"
    }
 ]
}
JSON
cfssl gencert -initca ca-csr.json -loglevel=0| cfssljson -bare ca -

cat >cfssl-config.json <<JSON
{
    "signing": {
        "default": {
            "ocsp_url": "http://localhost:$OCSP_PORT",
            "crl_url": "http://localhost:$API_PORT/crl",
            "expiry": "26280h",
            "usages": [
                "signing",
                "key encipherment",
                "client auth"
            ]
        },
        "profiles": {
            "ocsp": {
                "usages": ["digital signature", "ocsp signing"],
                "expiry": "26280h"
            },
            "intermediate": {
                "usages": ["cert sign", "crl sign"],
                "expiry": "26280h",
                "ca_constraint": {"is_ca": true}
            },
            "server": {
                "usages": ["signing", "key encipherment", "server auth"],
                "expiry": "26280h"
            },
            "client": {
                "usages": ["signing", "key encipherment", "client auth"],
                "expiry": "26280h"
            }
        }
    }
}
JSON
sed 's/My PoC root CA/My intermediate CA/' ca-csr.json >server-ca.csr.json
cfssl gencert -ca ca.pem -ca-key ca-key.pem -config="cfssl-config.json"  -profile="intermediate" server-ca.csr.json| cfssljson -bare ca-server -
cat ca-server.pem ca.pem >bundle.pem

mkdir server-ocsp
sed 's/My PoC root CA/My OCSP signer/' ca-csr.json >server-ocsp/ocsp.csr.json
(cd server-ocsp
cfssl gencert -ca ../ca-server.pem -ca-key ../ca-server-key.pem -config ../cfssl-config.json -profile="ocsp" ocsp.csr.json| cfssljson -bare server-ocsp -
)

cfssl serve -port="$API_PORT" -db-config=db-pg.json -loglevel=0  -ca-key=ca-server-key.pem -ca=ca-server.pem -config=./cfssl-config.json -responder=server-ocsp/server-ocsp.pem -responder-key=server-ocsp/server-ocsp-key.pem >serve.log 2>&1 &
background+=($!)
wait_for "http://localhost:$API_PORT/api/v1/cfssl/health" serve.log $!

openssl ecparam -name prime256v1 -out prime256v1.pem
for name in my-client my-revoked; do
  openssl req -new -newkey ec:prime256v1.pem -nodes -keyout client.key -out client.csr -subj "/CN=$name" 2>/dev/null
  cfssl sign -remote "localhost:$API_PORT" -profile "client" client.csr |cfssljson -bare "$name" -
done
# Signed by the same CA, but not through the server: no database knows it.
cfssl sign -ca ca-server.pem -ca-key ca-server-key.pem -config cfssl-config.json -profile client client.csr | cfssljson -bare my-unknown -

cfssl revoke -db-config db-pg.json -serial "$(serial my-revoked)" -aki "$(aki my-revoked)" -reason keyCompromise

# The step that is missing in the walkthrough: without it there is nothing to dump.
cfssl ocspdump -db-config db-pg.json >ocspdump.txt 2>ocspdump.err
[ ! -s ocspdump.txt ] || { echo "ocspdump printed answers that nobody signed" >&2; exit 1; }
echo "hint $(tr '\n' ' ' <ocspdump.err)"

case $VARIANT in
  responses) # sign, dump, serve the file
    cfssl ocsprefresh -db-config db-pg.json -ca ca-server.pem -responder server-ocsp/server-ocsp.pem -responder-key server-ocsp/server-ocsp-key.pem
    cfssl ocspdump -db-config db-pg.json> ocspdump.txt
    cfssl ocspserve -port="$OCSP_PORT" -responses=ocspdump.txt  -loglevel=0 >ocspserve.log 2>&1 &
    ;;
  database) # nothing signed before: the responder signs what has no fresh answer
    cfssl ocspserve -port="$OCSP_PORT" -db-config db-pg.json -ca ca-server.pem -responder server-ocsp/server-ocsp.pem -responder-key server-ocsp/server-ocsp-key.pem >ocspserve.log 2>&1 &
    ;;
esac
background+=($!)
wait_for "http://localhost:$OCSP_PORT/" ocspserve.log $!

ask my-client
ask my-client -sha256
ask my-revoked
ask my-unknown
crl_check my-client ok
crl_check my-revoked revoked

# A revocation while the responder runs.
cfssl revoke -db-config db-pg.json -serial "$(serial my-client)" -aki "$(aki my-client)" -reason superseded
if [ "$VARIANT" = responses ]; then
  cfssl ocsprefresh -db-config db-pg.json -ca ca-server.pem -responder server-ocsp/server-ocsp.pem -responder-key server-ocsp/server-ocsp-key.pem
  cfssl ocspdump -db-config db-pg.json> ocspdump.txt
fi
ask_until revoked my-client
crl_check my-client revoked

for pid in "${background[@]}"; do
  kill -TERM "$pid"
  wait "$pid" || { echo "server $pid ended with $?" >&2; exit 1; }
done
background=()
echo "keys $(stat -c %a ./*-key.pem server-ocsp/*-key.pem | sort -u | tr '\n' ' ')"
