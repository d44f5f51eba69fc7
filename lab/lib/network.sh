# The underlay: a bridge in a namespace of its own, isth-wan, that every host's wire and the machine's isth-wan0 plug into.
# A namespace rather than a bridge of the machine, so that the machine's firewall (Docker drops forwarded frames) has no
# say. In isth-wan the wire to a host has the host's id as its name: `lab/in wan ip link set lisbon down` cuts lisbon off.
# shellcheck shell=bash

refuse_taken_subnet() {
  local taken
  taken=$( (
    ip -4 route show table all root "$subnet"
    ip -4 route show table all match "$subnet"
  ) | awk '!/^default|dev isth-wan0/' | sort -u)
  [ -z "$taken" ] || die "the lab's underlay is $subnet, but this machine uses it already:
$taken
Free it, or change subnet, gateway and hosts in lab/lib/common.sh (and lab/sites.yaml)."
}

namespace_up() { # NAME
  if ! ip netns exec "$1" true 2>/dev/null; then
    ip netns delete "$1" 2>/dev/null || true # a plain file, if its maker was killed in between
    ip netns add "$1"
  fi
  ip -n "$1" link set lo up
  # Where the switch runs in user space the host's own IP stack hears what a guest sends to the other end of its wire. It is
  # to answer nobody there: docs/operations.md asks the same of real hosts.
  # shellcheck disable=SC2016
  ip netns exec "$1" sh -c 'for setting in ipv4/conf/all/rp_filter ipv4/conf/default/rp_filter ipv4/conf/all/arp_ignore \
    ipv6/conf/all/disable_ipv6 ipv6/conf/default/disable_ipv6; do
    [ ! -e "/proc/sys/net/$setting" ] || echo 1 >"/proc/sys/net/$setting"
  done'
}

# wire NAMESPACE NAME PEER-NAMESPACE PEER-NAME: a cable; PEER-NAMESPACE may be "" for the machine itself.
wire() {
  local peer=(ip)
  [ -z "$3" ] || peer+=(-n "$3")
  if ! ip -n "$1" link show "$2" &>/dev/null || ! "${peer[@]}" link show "$4" &>/dev/null; then
    ip -n "$1" link delete "$2" 2>/dev/null || true
    "${peer[@]}" link delete "$4" 2>/dev/null || true
    ip -n "$1" link add "$2" type veth peer name "$4" ${3:+netns "$3"}
    [ -n "$3" ] || ip -n "$1" link set "$4" netns 1
  fi
  ip -n "$1" link set "$2" up
  "${peer[@]}" link set "$4" up
}

network_up() {
  local id
  make_mount_point /run/netns # ip-netns(8) mounts it on itself
  namespace_up isth-wan
  ip -n isth-wan link show wan &>/dev/null || ip -n isth-wan link add wan type bridge
  ip -n isth-wan link set wan up
  wire isth-wan machine "" isth-wan0
  ip -n isth-wan link set machine master wan
  ip address replace "$gateway/${subnet#*/}" dev isth-wan0
  # The userspace datapath drops TCP frames whose checksum the sender left to a network card that isn't there.
  ethtool -K isth-wan0 tx off >/dev/null
  for id in "${ids[@]}"; do
    namespace_up "isth-$id"
    if ! ip -n isth-wan link show "$id" &>/dev/null; then
      wire isth-wan "$id" "isth-$id" wan0
      ip -n isth-wan link set "$id" master wan
      ip netns exec isth-wan ethtool -K "$id" tx off >/dev/null
    fi
  done
}

network_down() {
  local name
  ip link delete isth-wan0 2>/dev/null || true
  for name in wan "${ids[@]}"; do
    [ ! -e "/run/netns/isth-$name" ] || ip netns delete "isth-$name"
  done
}
