#!/usr/bin/env bash
# Makes the transcript in README.md by running it: `docs/transcript.sh` prints it, `--write` puts it in its place.
# Needs `artstore` and `curl` on the path and port 8010 free; works in a directory of its own.
set -euo pipefail

readme=$(cd "$(dirname "$0")/.." && pwd)/README.md
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || stop; rm -rf "$work" "$work.out" "$work.log"' EXIT
cd "$work"
unset "${!ARTSTORE_@}"

start() {
  artstore serve >>"$work.log" 2>&1 &
  server=$!
  for _ in $(seq 100); do
    if artstore healthcheck >/dev/null 2>&1; then return; fi
    sleep 0.1
  done
  cat "$work.log" >&2
  exit 1
}

stop() {
  kill "$server"
  wait "$server" || true
  server=
}

say() { printf '\n# %s\n' "$*"; }

# Shows a command and what it prints; runs it here, so that variables last.
run() {
  printf '$ %s\n' "$1"
  eval "$1"
}

transcript() {
  run "api=http://127.0.0.1:8010/api/v1/files"
  run 'auth="Authorization: Bearer $(artstore token --user ivanov --role operator)"'

  say "Put a file in."
  run "echo 'All is well.' > report.txt"
  run 'curl -s -H "$auth" -F file=@report.txt -F description="Third quarter" -F tags=finance $api | tee answer.json; echo'
  run "id=\$(sed 's/.*\"file_id\":\"\([^\"]*\)\".*/\1/' answer.json)"

  say "Find it by a piece of a word."
  run 'curl -s -H "$auth" "$api?q=quart&tag=finance" | python3 -m json.tool | grep -E "file_id|original|cursor"'

  say "The store is a tree that people can read."
  run 'ls artstore-data/files/*/*/*/*/'
  run 'cat artstore-data/files/*/*/*/*/*.attr.json; echo'

  say "Take it out."
  run 'curl -s -H "$auth" $api/$id/download'

  say "The cache is only a cache. Stop the server, remove it, start again: the same answer."
  run 'curl -s -H "$auth" $api > before.json'
  stop
  run 'rm -rf artstore-data/state/cache*'
  start
  run 'curl -s -H "$auth" $api | cmp - before.json && echo same'

  say "Delete it."
  run 'curl -s -o /dev/null -w "%{http_code}\n" -H "$auth" -X DELETE $api/$id'
  run 'curl -s -H "$auth" $api/$id; echo'
  run 'ls artstore-data/files/*/*/*/*/'
}

if curl -s http://127.0.0.1:8010/ >/dev/null; then
  echo "Somebody listens at 127.0.0.1:8010 already: the transcript would be theirs. Stop them first." >&2
  exit 1
fi
start
transcript >"$work.out" 2>&1 || { cat "$work.out" >&2; exit 1; }
if [ "${1:-}" = --write ]; then
  python3 - "$readme" "$work.out" <<'PYTHON'
import re
import sys
from pathlib import Path

readme, out = map(Path, sys.argv[1:])
block = f"<!-- docs/transcript.sh -->\n```console\n{out.read_text()}```\n<!-- end -->"
readme.write_text(re.sub(r"<!-- docs/transcript.sh -->.*?<!-- end -->", lambda _: block, readme.read_text(), flags=re.DOTALL))
PYTHON
else
  cat "$work.out"
fi
