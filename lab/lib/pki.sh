# Two authorities, made anew with every lab: one for the sites (libvirt, OVSDB, OpenFlow), one for the control plane.
# shellcheck shell=bash

pki="$state/pki"

# certificate FOLDER AUTHORITY NAME SUBJECT EXTENSIONS…: AUTHORITY "self" makes one that signs itself.
certificate() {
  local folder=$1 authority=$2 name=$3 subject=$4 signer=() extension
  shift 4
  [ ! -s "$folder/$name.crt" ] || return 0
  mkdir -p "$folder"
  [ "$authority" = self ] || signer=(-CA "$folder/$authority.crt" -CAkey "$folder/$authority.key")
  {
    printf '[req]\ndistinguished_name = name\n[name]\n[extensions]\n'
    for extension in "$@"; do echo "$extension"; done
  } >"$folder/$name.cnf"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -days 365 -config "$folder/$name.cnf" \
    -extensions extensions -subj "$subject" -keyout "$folder/$name.key" -out "$folder/.$name.crt" "${signer[@]}"
  mv "$folder/.$name.crt" "$folder/$name.crt"
}

authority() { # FOLDER NAME
  certificate "$1" self ca "/CN=$2" 'basicConstraints = critical,CA:true' 'keyUsage = critical,keyCertSign,cRLSign' \
    'subjectKeyIdentifier = hash'
}

leaf() { # FOLDER NAME SUBJECT USAGES [ALTERNATIVE-NAMES]
  certificate "$1" ca "$2" "$3" 'basicConstraints = critical,CA:false' 'keyUsage = digitalSignature,keyEncipherment' \
    "extendedKeyUsage = $4" ${5:+"subjectAltName = $5"}
}

pki_up() {
  umask 077
  local id
  authority "$pki" 'Isthmus lab'
  # A daemon is a client too: it opens the peer-to-peer connection of a migration.
  for id in "${ids[@]}"; do
    leaf "$pki" "$id" "/CN=$id" serverAuth,clientAuth "IP:${address_of[$id]},DNS:$id.lab.isthmus.dev"
  done
  leaf "$pki" operator '/CN=isthmus-operator' clientAuth
  authority "$pki/kubernetes" 'Isthmus lab Kubernetes'
  leaf "$pki/kubernetes" apiserver '/CN=kube-apiserver' serverAuth 'IP:127.0.0.1,DNS:localhost,DNS:kubernetes.default.svc,IP:10.0.0.1'
  leaf "$pki/kubernetes" admin '/O=system:masters/CN=lab-admin' clientAuth
  leaf "$pki/kubernetes" controller-manager '/CN=system:kube-controller-manager' clientAuth
  [ -s "$pki/kubernetes/service-accounts.pub" ] || {
    openssl ecparam -name prime256v1 -genkey -noout -out "$pki/kubernetes/service-accounts.key"
    openssl ec -in "$pki/kubernetes/service-accounts.key" -pubout -out "$pki/kubernetes/service-accounts.pub"
  }
}

# libvirt's and GnuTLS's usual places, which Open vSwitch is told too.
pki_install() { # ID
  local folder="$state/$1/etc/pki"
  mkdir -p "$folder/CA" "$folder/libvirt/private"
  cp "$pki/ca.crt" "$folder/CA/cacert.pem"
  cp "$pki/$1.crt" "$folder/libvirt/servercert.pem"
  cp "$pki/$1.crt" "$folder/libvirt/clientcert.pem"
  cp "$pki/$1.key" "$folder/libvirt/private/serverkey.pem"
  cp "$pki/$1.key" "$folder/libvirt/private/clientkey.pem"
  # QEMU's own, for migrations with TLS.
  mkdir -p "$folder/qemu"
  cp "$pki/ca.crt" "$folder/qemu/ca-cert.pem"
  local end
  for end in server client; do
    cp "$pki/$1.crt" "$folder/qemu/$end-cert.pem"
    cp "$pki/$1.key" "$folder/qemu/$end-key.pem"
  done
}
