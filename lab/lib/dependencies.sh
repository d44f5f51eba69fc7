# What the lab needs from elsewhere: Debian packages, npm modules, the control plane's programs. Nothing is fetched that is there.
# shellcheck shell=bash

packages=(
  iproute2 iputils-ping ethtool util-linux uuid-runtime openssl ca-certificates tini
  openvswitch-switch libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-daemon-driver-lxc libvirt-clients
  qemu-system-x86 qemu-utils qemu-block-extra nfs-ganesha nfs-ganesha-vfs rpcbind
  busybox-static cpio dosfstools e2fsprogs mtools syslinux
)

missing_packages() {
  local name
  for name in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || echo "$name"
  done
}

# The machine's own daemons of these packages stay off: the lab runs its own in each host. Debian's policy for that is
# this file (https://www.debian.org/doc/debian-policy/ch-opersys.html); one that is there already is left as it is.
install_packages() {
  local policy=/usr/sbin/policy-rc.d ours=false
  if [ ! -e "$policy" ]; then
    ours=true
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  apt-get -q update
  DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@"
  if $ours; then rm -f "$policy"; fi
}

check_versions() {
  local node go
  node=$(node --version 2>/dev/null | sed 's/^v//')
  [ "$(printf '%s\n' 20.20 "${node:-0}" | sort -V | head -n 1)" = 20.20 ] || die "needs Node.js ≥ 20.20 (found: ${node:-none})"
  [ -x "$tools/kube-apiserver" ] && [ -x "$tools/etcd" ] && [ -x "$tools/consul" ] && return
  go=$(go env GOVERSION 2>/dev/null | sed 's/^go//')
  [ "$(printf '%s\n' 1.25 "${go:-0}" | sort -V | head -n 1)" = 1.25 ] || die "needs Go ≥ 1.25 to build the control plane (found: ${go:-none})"
}

# As locked. Not `npm ci`: it demands optional modules of every other platform in the lock file, which a registry that
# lacks them can't have put there.
npm_modules() { npm --prefix "$project" install --no-save --no-audit --no-fund; }

dependencies() {
  check_versions
  command -v apt-get dpkg-query >/dev/null || die 'needs Debian (bookworm was tried) for its packages'
  local missing
  mapfile -t missing < <(missing_packages)
  [ "${#missing[@]}" -eq 0 ] || step "packages (${#missing[@]} to install)" install_packages "${missing[@]}"
  # npm writes this copy of the lock file when an install is complete.
  [ "$project/node_modules/.package-lock.json" -nt "$project/package-lock.json" ] ||
    step 'npm modules' npm_modules
  # Shows its own progress: the first build takes minutes.
  "$project/tools/install" >/dev/null
}
