# Shared by the lab's commands: where things are, the table of hosts, processes that are ours and how to end them.
# shellcheck shell=bash
set -euo pipefail

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
state="$project/.lab"
cache="$project/.cache"
tools="$cache/tools"
run="$state/run"
log="$state/log"

# One row a host; a site may have several. services: what runs there beside libvirt and Open vSwitch. lisbon-b is a spare:
# it runs, but no Site names it until somebody applies lab/spare-host.yaml.
#        id        site      host  underlay address  services
hosts=(
  "valencia  valencia  a     198.51.100.11     consul,nfs"
  "saopaulo  saopaulo  a     198.51.100.12     consul"
  "lisbon    lisbon    a     198.51.100.13     consul"
  "lisbon-b  lisbon    b     198.51.100.14     -"
)
subnet=198.51.100.0/24
gateway=198.51.100.1

ids=()
declare -A site_of=() host_of=() address_of=() services_of=()
for row in "${hosts[@]}"; do
  read -r id site_name host_name address services <<<"$row"
  ids+=("$id")
  site_of[$id]=$site_name host_of[$id]=$host_name address_of[$id]=$address services_of[$id]=$services
done
unset row id site_name host_name address services

has_service() { [[ ",${services_of[$1]}," == *",$2,"* ]]; } # ID SERVICE

# Whose lab runs on this machine: the folder of its project. In /run, so a restart of the machine forgets it, rightly. It is
# locked while lab/up or lab/down works.
owner_file=/run/isthmus-lab

say() { printf 'lab: %s\n' "$*"; }
die() { printf 'lab: %s\n' "$*" >&2; exit 1; }

# step TITLE COMMAND…: runs it, its output to .lab/log/lab.log, and prints one line with the seconds it took.
step() {
  local title=$1 from=${EPOCHREALTIME/[.,]/} code=0 tenths
  shift
  mkdir -p "$log"
  printf 'lab: %-46s' "$title"
  # Not "|| code=$?": bash would ignore set -e within the command then.
  set +e
  (set -e; "$@") >>"$log/lab.log" 2>&1
  code=$?
  set -e
  tenths=$(((${EPOCHREALTIME/[.,]/} - from) / 100000))
  if [ "$code" -ne 0 ]; then
    printf 'FAILED after %d.%d s\n' $((tenths / 10)) $((tenths % 10))
    tail -n 15 "$log/lab.log" >&2
    die "$title failed (all of it: .lab/log/lab.log, daemons: .lab/log/)"
  fi
  printf '%4d.%d s\n' $((tenths / 10)) $((tenths % 10))
}

# wait_for SECONDS WHAT COMMAND…: until the command succeeds.
wait_for() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || { echo "gave up waiting for $what" >&2; return 1; }
    sleep 0.1
  done
}

# --- processes -------------------------------------------------------------------------------------------------------
# A process of ours is a session of its own. It writes its own pid file ("PID STARTTIME") before it becomes the daemon,
# so that it is known however its parent ends, and a pid that someone else got later is not taken for ours.

started_at() { # PID: the kernel's start time of a process that lives, or failure
  local fields
  fields=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  read -r -a fields <<<"${fields##*) }"
  [ "${fields[0]}" != Z ] && echo "${fields[19]}"
}

pid_of() { # NAME: its pid if it lives
  local pid since
  [ -f "$run/$1.pid" ] || return 1
  read -r pid since <"$run/$1.pid" || return 1
  [ -n "$pid" ] && [ "$(started_at "$pid")" = "$since" ] || return 1
  echo "$pid"
}

alive() { pid_of "$1" >/dev/null; }

record_self() { # NAME
  echo "$$ $(started_at $$)" >"$run/.$1.$$"
  mv -f "$run/.$1.$$" "$run/$1.pid"
}

# launch NAME COMMAND…, launch NAME --site ID COMMAND…: in the background, output to .lab/log/NAME.log.
launch() {
  local name=$1
  rm -f "$run/$name.pid"
  # tini takes in and reaps what the daemon leaves behind. libvirtd waits until a QEMU that it has ended is reaped, and not
  # every machine's first process does that at once: in some sandboxes 2 s later. The lock (9) stays here.
  setsid tini -s -- "$project/lab/lib/become" "$@" </dev/null >>"$log/$name.log" 2>&1 9>&- &
  disown
  wait_for 10 "$name to start" test -s "$run/$name.pid"
}

# wait_for_daemon SECONDS NAME COMMAND…: like wait_for, but gives up as soon as the daemon has ended, with its last words.
wait_for_daemon() {
  local seconds=$1 name=$2
  shift 2
  wait_for "$seconds" "$name" succeeds_or_dead "$name" "$@"
  alive "$name" || { echo "$name ended:"; tail -n 5 "$log/$name.log"; return 1; } >&2
}
succeeds_or_dead() { ! alive "$1" || "${@:2}"; }

# --- one at a time, and one lab a machine ------------------------------------------------------------------------------

# Refuses where the lab of another project runs. One of which no process is left stands in nobody's way: its processes may
# have been ended with all else that a job had started.
take_machine() {
  local other id
  while :; do
    exec 9>>"$owner_file"
    flock -n 9 || { say "another lab/up or lab/down runs; waiting for it"; flock 9; }
    [ ! "$owner_file" -ef /proc/self/fd/9 ] || break # lab/down takes the file away
  done
  other=$(<"$owner_file")
  [ -n "$other" ] && [ "$other" != "$project" ] || return 0
  for id in machine "${ids[@]}"; do
    [ -z "$(cgroup_pids "$id")" ] || die "the lab of $other runs on this machine; end it there with lab/down"
  done
  say "nothing runs any more of the lab of $other"
}

require_root() { [ "$(id -u)" = 0 ] || die "needs root: it makes network namespaces and mounts"; }
