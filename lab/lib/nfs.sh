# The share: nfs-ganesha exports /nfs of its host in user space; QEMU's libnfs reads it, so no kernel support is needed.
# shellcheck shell=bash

nfs_start() { # ID
  has_service "$1" nfs || return 0
  alive "$1-rpcbind" || launch "$1-rpcbind" --site "$1" rpcbind -f
  if alive "$1-ganesha"; then return; fi
  mkdir -p "$state/$1/var/lib/nfs/ganesha"
  cat >"$state/$1/ganesha.conf" <<CONF
NFS_CORE_PARAM {
  Protocols = 3,4;
  mount_path_pseudo = true;
  Enable_NLM = false;
  Enable_RQUOTA = false;
}
NFSV4 {
  Graceless = true;
}
EXPORT {
  Export_Id = 1;
  Path = $exported;
  Pseudo = $exported;
  Access_Type = RW;
  Squash = No_Root_Squash;
  SecType = sys;
  FSAL {
    Name = VFS;
  }
}
CONF
  launch "$1-ganesha" --site "$1" ganesha.nfsd -F -f "$state/$1/ganesha.conf" -L STDERR -N NIV_WARN -p /run/ganesha/ganesha.pid
}

nfs_ready() { # ID
  has_service "$1" nfs || return 0
  wait_for_daemon 15 "$1-ganesha" in_site "$1" bash -c "exec 3<>/dev/tcp/${address_of[$1]}/2049"
}
