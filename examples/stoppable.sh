# For scripts to source: 'run COMMAND ...' runs a command that SIGTERM to the script reaches, too. A service manager or
# 'kill' tells the script's shell alone; it tells the command, waits until that has saved its work, and leaves.
running=""
stopped=""
stop() {
  stopped=$1
  [ -n "$running" ] || exit "$1"
  [ "$running" = starting ] || kill -TERM "$running" 2>/dev/null || true
}
trap 'stop 143' TERM
trap 'stop 130' INT # bash has its background processes ignore Ctrl-C until they ask for it
run() {
  running=starting
  "$@" &
  running=$!
  [ -z "$stopped" ] || kill -TERM "$running" 2>/dev/null || true
  local status=0
  wait "$running" || status=$?
  while kill -0 "$running" 2>/dev/null; do # a signal ended the wait, not the command
    status=0
    wait "$running" || status=$?
  done
  running=""
  [ -z "$stopped" ] || exit "$stopped"
  return "$status"
}
