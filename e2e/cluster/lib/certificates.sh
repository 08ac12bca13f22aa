# One authority, one certificate per program, one kubeconfig per client. Made once per state folder. Sourced by up.

make_certificates() {
    mkdir -p "$state/pki"
    [ -f "$state/pki/done" ] && return
    (
        cd "$state/pki"
        exec 2>"$state/pki/openssl.log"
        openssl genrsa -out service-accounts.key 2048
        openssl rsa -in service-accounts.key -pubout -out service-accounts.pub
        authority ca cluster-authority
        authority front-proxy-ca front-proxy-authority
        echo 'subjectAltName=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost,IP:127.0.0.1,IP:10.89.0.1,IP:10.96.0.1' >names
        # With extensions, however few, a certificate is of version 3: rustls takes no other.
        echo 'basicConstraints=CA:FALSE' >plain
        certificate kube-apiserver /CN=kube-apiserver ca names
        certificate front-proxy /CN=front-proxy-client front-proxy-ca
        client admin /O=system:masters/CN=admin
        client kube-controller-manager /CN=system:kube-controller-manager
        client kube-scheduler /CN=system:kube-scheduler
        client kube-proxy /CN=system:kube-proxy
        client kn1 /O=system:nodes/CN=system:node:kn1
        client kn2 /O=system:nodes/CN=system:node:kn2
        touch done
    )
}

authority() { # NAME COMMON-NAME
    openssl req -x509 -newkey rsa:2048 -nodes -keyout "$1.key" -out "$1.crt" -days 365 -subj "/CN=$2"
}

certificate() { # NAME SUBJECT AUTHORITY [EXTENSIONS]
    openssl req -newkey rsa:2048 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2"
    openssl x509 -req -in "$1.csr" -CA "$3.crt" -CAkey "$3.key" -CAcreateserial -out "$1.crt" -days 365 -extfile "${4:-plain}"
}

client() { # NAME SUBJECT
    certificate "$1" "$2" ca
    cat >"$1.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: e2e, cluster: {server: "https://10.89.0.1:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: e2e, context: {cluster: e2e, user: $1}}]
current-context: e2e
YAML
}
