# etcd, API server, controller manager and scheduler, all in one network namespace. Sourced by up.

start_control_plane() {
    local pki=$state/pki
    mkdir -p "$state/etcd"
    rm -f "$state/logs"/audit*.jsonl # of a cluster that is gone
    start etcd "$network" "$programs/etcd" --data-dir "$state/etcd" --listen-client-urls http://127.0.0.1:2379 \
        --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync
    start kube-apiserver "$network" "$programs/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
        --advertise-address=10.89.0.1 --bind-address=0.0.0.0 --secure-port=6443 \
        --service-cluster-ip-range=10.96.0.0/16 --allow-privileged \
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
        --tls-cert-file="$pki/kube-apiserver.crt" --tls-private-key-file="$pki/kube-apiserver.key" \
        --client-ca-file="$pki/ca.crt" \
        --service-account-issuer=https://kubernetes.default.svc \
        --service-account-key-file="$pki/service-accounts.pub" --service-account-signing-key-file="$pki/service-accounts.key" \
        --kubelet-client-certificate="$pki/admin.crt" --kubelet-client-key="$pki/admin.key" \
        --kubelet-preferred-address-types=InternalIP \
        --requestheader-client-ca-file="$pki/front-proxy-ca.crt" --requestheader-username-headers=X-Remote-User \
        --requestheader-group-headers=X-Remote-Group --requestheader-extra-headers-prefix=X-Remote-Extra- \
        --proxy-client-cert-file="$pki/front-proxy.crt" --proxy-client-key-file="$pki/front-proxy.key" \
        --enable-aggregator-routing \
        --audit-policy-file="$here/lib/audit.yaml" --audit-log-path="$state/logs/audit.jsonl" --audit-log-maxsize=4096
    wait_for 120 "the API server" kubectl get --raw /readyz
    start kube-controller-manager "$network" "$programs/kube-controller-manager" --kubeconfig="$pki/kube-controller-manager.kubeconfig" \
        --authentication-kubeconfig="$pki/kube-controller-manager.kubeconfig" \
        --authorization-kubeconfig="$pki/kube-controller-manager.kubeconfig" \
        --service-account-private-key-file="$pki/service-accounts.key" --root-ca-file="$pki/ca.crt" \
        --use-service-account-credentials --leader-elect=false --bind-address=127.0.0.1 \
        --horizontal-pod-autoscaler-sync-period=5s --node-monitor-grace-period=20s
    start kube-scheduler "$network" "$programs/kube-scheduler" --kubeconfig="$pki/kube-scheduler.kubeconfig" \
        --authentication-kubeconfig="$pki/kube-scheduler.kubeconfig" --authorization-kubeconfig="$pki/kube-scheduler.kubeconfig" \
        --leader-elect=false --bind-address=127.0.0.1
}

wait_for_nodes() {
    wait_for 120 "both nodes" kubectl get node kn1 kn2
    kubectl wait --for=condition=Ready node/kn1 node/kn2 --timeout=120s >/dev/null || die "a node does not become ready; logs are in $state/logs"
    wait_for 60 "the pretend GPUs" both_offer_gpus
    wait_for 60 "the default service account" kubectl get serviceaccount default
}

both_offer_gpus() {
    [ "$(kubectl get node kn1 kn2 -o 'jsonpath={.items[*].status.allocatable.nvidia\.com/gpu}')" = "$GPUS_PER_NODE $GPUS_PER_NODE" ]
}
