# One libvirtd a host (QEMU, LXC and the test driver), on its unix socket, TCP 16509 and TLS 16514 of the underlay address.
# shellcheck shell=bash

stable_uuid() { uuidgen --sha1 --namespace @dns --name "$1.lab.isthmus.dev"; }

pool() { # ID NAME FOLDER: defined and autostarted by its file, before the daemon reads it
  local folder="$state/$1/etc/libvirt/storage"
  mkdir -p "$folder/autostart" "$state/$1$3"
  ln -sfn "/etc/libvirt/storage/$2.xml" "$folder/autostart/$2.xml"
  [ -f "$folder/$2.xml" ] || cat >"$folder/$2.xml" <<XML
<pool type='dir'>
  <name>$2</name>
  <uuid>$(stable_uuid "$2.$1")</uuid>
  <target><path>$3</path></target>
</pool>
XML
}

libvirt_configure() { # ID
  local folder="$state/$1/etc/libvirt" address=${address_of[$1]}
  mkdir -p "$folder"
  # Migration refuses two hosts with one host_uuid.
  cat >"$folder/libvirtd.conf" <<CONF
host_uuid = "$(stable_uuid "$1")"
listen_tcp = 1
listen_tls = 1
listen_addr = "$address"
auth_tcp = "none"
auth_tls = "none"
auth_unix_ro = "none"
auth_unix_rw = "none"
tls_no_verify_certificate = 0
log_outputs = "3:stderr"
CONF
  cat >"$folder/qemu.conf" <<CONF
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
remember_owner = 0
migration_address = "$address"
migration_host = "$address"
CONF
  echo 'security_driver = "none"' >"$folder/lxc.conf"
  pool "$1" default /var/lib/libvirt/images
  pool "$1" images /var/lib/libvirt/isthmus-images
  if has_service "$1" nfs; then pool "$1" shared "$exported"; fi
}

libvirt_start() { # ID
  if alive "$1-libvirtd"; then return; fi
  pki_install "$1"
  libvirt_configure "$1"
  mkdir -p "$cache/libvirt"
  cp -a "$cache/libvirt/." "$state/$1/var/cache/libvirt/"
  rm -f "$state/$1/run/libvirtd.pid"
  launch "$1-libvirtd" --site "$1" libvirtd --listen
}

# What QEMU can do takes seconds to find out. It is the same for all hosts and from lab to lab (libvirt checks), so the
# first host of the first lab finds out for all.
libvirt_learn() {
  [ ! -d "$cache/libvirt/qemu" ] || return 0
  ovs_ready "${ids[0]}"
  libvirt_start "${ids[0]}"
  libvirt_ready "${ids[0]}"
}

libvirt_ready() { # ID
  wait_for_daemon 40 "$1-libvirtd" in_site "$1" virsh -c qemu:///system -q version
  flock "$cache/libvirt" cp -a "$state/$1/var/cache/libvirt/." "$cache/libvirt/"
}
