# A host of a site: a network namespace, a mount namespace with private folders over the daemons' usual paths, a cgroup.
# A process `<id>-host` that sleeps keeps the namespaces; .lab/<id>/ holds the folders, so that a host which died comes
# back as it was, like after a power cut.
# shellcheck shell=bash
. "$project/lab/lib/cgroup.sh"

# The machine's paths that are private in a host, and the mount points among them that the machine may lack.
private=(/run /var/log /var/cache/libvirt /var/lib/libvirt /var/lib/nfs /etc/libvirt /etc/openvswitch /etc/pki)
exported=/nfs

make_mount_point() { # PATH: remembered, so that lab/down takes away exactly what we made
  [ -d "$1" ] || { echo "$1" >>"$state/mount-points"; mkdir -p "$1"; }
}

remove_mount_points() {
  [ -f "$state/mount-points" ] || return 0
  local path
  while read -r path; do
    umount -q "$path" 2>/dev/null || true # fails where someone else's namespaces are inside
    rmdir "$path" 2>/dev/null || true
  done < <(tac "$state/mount-points")
  rm "$state/mount-points"
}

site_up() { # ID
  if alive "$1-host"; then
    wait_for 10 "$1's namespaces" test -f "$run/$1.ready"
    return
  fi
  cgroup_destroy "$1" # what outlived its host
  cgroup_create "$1"
  local path
  for path in "${private[@]}"; do make_mount_point "$path"; done
  if has_service "$1" nfs; then make_mount_point "$exported"; fi
  rm -rf "$run/$1.ready" "$state/$1/run"
  # Its daemons' only: lisbon-b-host.pid is not lisbon's, and hosts start side by side.
  find "$run" -name "$1-*.pid" ! -name "$1-*-*" -delete
  launch "$1-host" "$project/lab/lib/host" "$1"
  wait_for 10 "$1's namespaces" test -f "$run/$1.ready"
}

# Turns into the command inside a host. The working folder stays if it exists there.
enter_site() { # ID COMMAND…
  local keeper
  keeper=$(pid_of "$1-host") || die "$1 does not run (lab/up starts it)"
  cgroup_join "$1"
  shift
  exec nsenter --target "$keeper" --mount --uts --net --cgroup --wdns="$PWD" -- "$@"
}

in_site() { (enter_site "$@"); }
