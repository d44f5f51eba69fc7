# What the demo's steps share: headings, commands that are printed before they run, times.
# shellcheck shell=bash disable=SC2034
. "$(dirname "${BASH_SOURCE[0]}")/../lab/lib/common.sh"
cd "$project"
export PATH="$tools:$PATH" KUBECONFIG=.lab/kubeconfig

title='start'
heading() { # TITLE
  title=$1
  printf '\n== %s\n' "$title"
}
note() { printf '   %s\n' "$*"; }

# show COMMAND…: as one would type it; words that the shell would take apart are quoted.
show() {
  local word line='$'
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@+-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  printf '%s\n' "$line"
}
show_line() { printf '$ %s\n' "$1"; }

# run COMMAND…: prints it, runs it, sets took_ms.
run() {
  show "$@"
  timed "$@"
}

took_ms=0
timed() { # COMMAND…
  local from=${EPOCHREALTIME/[.,]/}
  "$@"
  took_ms=$(((${EPOCHREALTIME/[.,]/} - from) / 1000))
}

seconds() { # MILLISECONDS
  printf '%d.%02d s' $(($1 / 1000)) $(($1 % 1000 / 10))
}

operator_listens() (exec 3<>/dev/tcp/127.0.0.1/8081) 2>/dev/null
operator_ready() (
  exec 3<>/dev/tcp/127.0.0.1/8081
  printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3
  grep -q '^HTTP/1.[01] 200 ' <&3
)

end_operator() {
  local pid
  pid=$(pid_of operator) || return 0
  kill "$pid"
  wait_for 30 'the operator to end' ended operator || kill -KILL "$pid"
}
ended() { ! alive "$1"; }
