# Sourced by ./quickstart and ./test: runs the parts of a script, says what each does, and at the end how long each took.

parts_summary=
parts_begin=$SECONDS

# part NAME COMMAND...: runs the command; when it fails, prints the times so far and ends the script.
part() {
  local name=$1 begin=$SECONDS status=0
  shift
  echo "== $name: $*"
  "$@" || status=$?
  parts_summary+=$(printf '%-24s %5d s' "$name" $((SECONDS - begin)))$'\n'
  if [ $status != 0 ]; then
    print_parts
    echo "$0: failed: $name (exit status $status)" >&2
    exit $status
  fi
}

print_parts() {
  echo "== time of each part"
  printf '%s%-24s %5d s\n' "$parts_summary" total $((SECONDS - parts_begin))
}
