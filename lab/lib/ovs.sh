# Open vSwitch in each host: OVSDB on the unix socket and ssl:<underlay>:6640, and br-wan, the lab's own bridge, whose
# internal port carries the underlay address (userspace VXLAN needs it there). The product's bridges are the operator's.
# shellcheck shell=bash

ovs_start() { # ID
  local database=/etc/openvswitch/conf.db
  in_site "$1" test -f "$database" || in_site "$1" ovsdb-tool create "$database" /usr/share/openvswitch/vswitch.ovsschema
  alive "$1-ovsdb" || launch "$1-ovsdb" --site "$1" ovsdb-server "$database" \
    --remote=punix:/run/openvswitch/db.sock --remote=db:Open_vSwitch,Open_vSwitch,manager_options \
    --private-key=db:Open_vSwitch,SSL,private_key --certificate=db:Open_vSwitch,SSL,certificate \
    --ca-cert=db:Open_vSwitch,SSL,ca_cert --unixctl=/run/openvswitch/ovsdb-server.ctl \
    --pidfile=/run/openvswitch/ovsdb-server.pid --overwrite-pidfile -vconsole:info -vfile:off -vsyslog:off
  alive "$1-vswitchd" || launch "$1-vswitchd" --site "$1" ovs-vswitchd unix:/run/openvswitch/db.sock \
    --unixctl=/run/openvswitch/ovs-vswitchd.ctl --pidfile=/run/openvswitch/ovs-vswitchd.pid --overwrite-pidfile \
    -vconsole:info -vfile:off -vsyslog:off
}

ovs_ready() { # ID
  local address=${address_of[$1]}
  wait_for_daemon 10 "$1-ovsdb" in_site "$1" test -S /run/openvswitch/db.sock
  # The hardware address is fixed, so that a restarted vswitchd is no stranger to its neighbours.
  # shellcheck disable=SC2046 # three words
  in_site "$1" ovs-vsctl --timeout=10 --may-exist add-br br-wan \
    -- set bridge br-wan datapath_type=netdev "other-config:hwaddr=$(printf '"02:00:%02x:%02x:%02x:%02x"' ${address//./ })" \
    -- --may-exist add-port br-wan wan0 \
    -- set-ssl /etc/pki/libvirt/private/serverkey.pem /etc/pki/libvirt/servercert.pem /etc/pki/CA/cacert.pem \
    -- set-manager "pssl:6640:$address"
  # A restarted vswitchd makes the port anew, without its address.
  ip -n "isth-$1" address replace "$address/${subnet#*/}" dev br-wan
  ip -n "isth-$1" link set br-wan up
}
