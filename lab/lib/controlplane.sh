# A real Kubernetes API on the loopback: etcd, kube-apiserver (RBAC) and kube-controller-manager, which collects the
# dependents of deleted owners and empties deleted namespaces. No nodes: the operator runs outside.
# shellcheck shell=bash

api=https://127.0.0.1:26443
etcd=http://127.0.0.1:22379
etcd_peer=http://127.0.0.1:22380
certs="$pki/kubernetes"

kubeconfig() { # FILE CERTIFICATE-NAME
  data() { base64 -w0 "$certs/$1"; } # on one line
  cat >"$1" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "$api", certificate-authority-data: $(data ca.crt)}}]
users: [{name: $2, user: {client-certificate-data: $(data "$2.crt"), client-key-data: $(data "$2.key")}}]
contexts: [{name: lab, context: {cluster: lab, user: $2}}]
current-context: lab
YAML
  chmod 600 "$1"
}

control_plane_start() {
  kubeconfig "$state/kubeconfig" admin
  kubeconfig "$state/controller-manager.kubeconfig" controller-manager
  alive etcd || launch etcd "$tools/etcd" --name lab --data-dir "$state/etcd" --log-level warn \
    --listen-client-urls "$etcd" --advertise-client-urls "$etcd" --listen-peer-urls "$etcd_peer" \
    --initial-advertise-peer-urls "$etcd_peer" --initial-cluster "lab=$etcd_peer"
  alive kube-apiserver || launch kube-apiserver "$tools/kube-apiserver" --etcd-servers "$etcd" --etcd-prefix /isthmus-lab \
    --bind-address 127.0.0.1 --secure-port "${api##*:}" --advertise-address 127.0.0.1 --service-cluster-ip-range 10.0.0.0/24 \
    --tls-cert-file "$certs/apiserver.crt" --tls-private-key-file "$certs/apiserver.key" --client-ca-file "$certs/ca.crt" \
    --authorization-mode RBAC --anonymous-auth=false --endpoint-reconciler-type none \
    --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$certs/service-accounts.pub" \
    --service-account-signing-key-file "$certs/service-accounts.key" --disable-admission-plugins ServiceAccount
}

kube() { "$tools/kubectl" --kubeconfig "$state/kubeconfig" "$@"; }

control_plane_ready() {
  wait_for_daemon 60 kube-apiserver kube get --raw /readyz
  alive kube-controller-manager || launch kube-controller-manager "$tools/kube-controller-manager" \
    --kubeconfig "$state/controller-manager.kubeconfig" --bind-address 127.0.0.1 --secure-port 0 --leader-elect=false \
    --use-service-account-credentials --kube-api-qps 500 --kube-api-burst 1000 \
    --service-account-private-key-file "$certs/service-accounts.key" --root-ca-file "$certs/ca.crt" \
    --controllers garbage-collector-controller,namespace-controller,serviceaccount-controller,clusterrole-aggregation-controller
  wait_for 10 'the namespace default' kube get namespace default
}

# What an administrator applies: CRDs, the operator's namespace with a client certificate a site, and the sites.
objects_up() {
  local site
  kube apply --server-side -k "$project/manifests/install/crds"
  kube wait --for=condition=Established --timeout=30s crd sites.isthmus.dev
  kube create namespace isthmus-system --dry-run=client -o yaml | kube apply --server-side -f -
  for site in $(printf '%s\n' "${site_of[@]}" | sort -u); do
    kube create secret generic "$site-tls" --namespace isthmus-system --type kubernetes.io/tls --dry-run=client -o yaml \
      --from-file "tls.crt=$pki/operator.crt" --from-file "tls.key=$pki/operator.key" --from-file "ca.crt=$pki/ca.crt"
    echo ---
  done | kube apply --server-side -f -
  kube apply --server-side -f "$project/lab/sites.yaml"
}
