# Each host has a cgroup isth-<id> in every hierarchy (v1 or v2), the control plane has isth-machine. All that runs in the
# host is inside, machines and containers too, so its end is exact: whatever these cgroups list is ours, and nothing else is.
# shellcheck shell=bash

cgroup_roots() { awk '$3 == "cgroup" || $3 == "cgroup2" { print $2 }' /proc/self/mounts; }

cgroup_create() { # ID
  local top group controller controllers
  while read -r top; do
    # v2 hands a controller down only where this file says so; not every machine lets us.
    if [ -f "$top/cgroup.subtree_control" ]; then
      read -r -a controllers <"$top/cgroup.controllers" || true
      for controller in "${controllers[@]}"; do
        echo "+$controller" 2>/dev/null >"$top/cgroup.subtree_control" || true
      done
    fi
    for group in "$top/isth-$1" "$top/isth-$1/lab"; do
      mkdir -p "$group"
      # An empty cpuset (v1) admits no process.
      if [ -f "$group/cpuset.cpus" ] && [ ! -f "$group/cgroup.controllers" ]; then
        cat "$group/../cpuset.cpus" >"$group/cpuset.cpus"
        cat "$group/../cpuset.mems" >"$group/cpuset.mems"
      fi
    done
  done < <(cgroup_roots)
}

cgroup_join() { # ID [GROUP]: the current process
  local top
  while read -r top; do echo "$BASHPID" >"$top/isth-$1${2:-/lab}/cgroup.procs"; done < <(cgroup_roots)
}

cgroup_pids() { # ID
  local top
  while read -r top; do
    [ ! -d "$top/isth-$1" ] || find "$top/isth-$1" -name cgroup.procs -exec cat {} +
  done < <(cgroup_roots) | sort -un
}

cgroup_destroy() { # ID: ends every process in it
  local top pids deadline=$((SECONDS + 10))
  while pids=$(cgroup_pids "$1") && [ -n "$pids" ]; do
    [ "$SECONDS" -lt "$deadline" ] || { echo "processes in isth-$1 refuse to end: ${pids//$'\n'/ }" >&2; return 1; }
    # shellcheck disable=SC2086 # a list of numbers
    kill -KILL $pids 2>/dev/null || true
    sleep 0.05
  done
  while read -r top; do
    [ ! -d "$top/isth-$1" ] || wait_for 5 "$top/isth-$1 to be empty" find "$top/isth-$1" -depth -type d -exec rmdir {} +
  done < <(cgroup_roots)
}

# Inside a host's cgroup namespace: the fresh /sys hides the hierarchies; mounted again they begin at isth-<id>.
cgroup_mount_again() { # reads the lines of /proc/self/mounts that were there before
  local lines point type options
  lines=$(cat)
  # Where v1 has the controllers, v2 stays away: with both, libvirt's container driver fails to make v2's folder.
  if ! grep -q ' cgroup ' <<<"$lines"; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    return
  fi
  mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
  while read -r _ point type options _; do
    [ "$type" = cgroup ] || continue
    mkdir -p "$point"
    options=$(tr , '\n' <<<"$options" | grep -xE 'cpu|cpuacct|cpuset|memory|devices|freezer|blkio|pids|net_cls|net_prio|perf_event|hugetlb|rdma|misc|name=.*' | paste -sd,)
    [[ $options != name=* ]] || options="none,$options"
    mount -t cgroup -o "$options" cgroup "$point"
  done <<<"$lines"
}
