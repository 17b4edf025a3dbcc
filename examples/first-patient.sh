#!/usr/bin/env bash
# A first Patient: created, changed, found, read back. Needs curl and a running `make up`.
set -euo pipefail
fhirserver=${EXCHANGE_COMMAND:-.venv/bin/fhirserver}

hospital=$($fhirserver organization create "Lakeside Hospital")
token=$($fhirserver token --organization "$hospital")
base=${EXCHANGE_URL:-http://127.0.0.1:8080}/1/health/organizations/$hospital/fhir/4
fhir() { curl --silent --show-error --fail-with-body -H "Authorization: Bearer $token" -H "Content-Type: application/fhir+json" "$@"; }

echo "--- create: Location says where it is, ETag which version"
location=$(fhir -D - -o /dev/null "$base/Patient" \
    -d '{"resourceType":"Patient","name":[{"family":"Bramwell"}],"birthDate":"1979-04-23"}' |
    tr -d '\r' | sed -n 's/^location: //Ip')
patient=${location%/_history/*}
id=${patient##*/}
echo "$location"

echo "--- update, only if it is still version 1"
fhir -X PUT "$patient" -H 'If-Match: W/"1"' \
    -d '{"resourceType":"Patient","id":"'"$id"'","name":[{"family":"Bramwell","given":["Ada"]}],"birthDate":"1979-04-23"}'
echo

echo "--- search"
fhir "$base/Patient?name=bram&birthdate=1979"
echo

echo "--- both versions"
fhir "$patient/_history"
echo
