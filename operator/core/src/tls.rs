//! TLS of a server's ports: what follows from `spec.tls` for the files, the flags and the addresses of its pods.

use crds::{
    TritonServerSpec,
    parts::tls::{ClientCertificates, Tls},
};

use crate::pod;

/// Keys of the Secret: the certificate, its key, and the roots of the certificates of clients.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const CLIENT_ROOTS: &str = "ca.crt";

/// Beginnings of the flags of each port, and whether its clients may be asked for certificates: what reads metrics has none.
const PORTS: [(&str, bool); 3] = [("http", true), ("grpc", true), ("metrics", false)];

/// Flags of `tritonserver` for the TLS of one port, after the name of that and a dash.
const FLAGS: [&str; 5] = ["root-cert", "server-cert", "server-key", "use-ssl", "use-ssl-mutual"];

/// Whether clients have to show certificates.
pub(crate) fn is_mutual(tls: &Tls) -> bool {
    tls.client_certificates == Some(ClientCertificates::Required)
}

/// Keys of the Secret that the server reads.
pub(crate) fn keys(tls: &Tls) -> impl Iterator<Item = &'static str> {
    [CERTIFICATE, KEY].into_iter().chain(is_mutual(tls).then_some(CLIENT_ROOTS))
}

/// Flags of `tritonserver` that say the same.
pub(crate) fn flags(tls: &Tls) -> Vec<String> {
    let file = |key: &str| format!("{}/{key}", pod::TLS);
    let mut flags = vec![];
    for (port, may_ask) in PORTS {
        let ssl = if may_ask && is_mutual(tls) { "use-ssl-mutual" } else { "use-ssl" };
        flags.extend([
            format!("--{port}-{ssl}=true"),
            format!("--{port}-server-cert={}", file(CERTIFICATE)),
            format!("--{port}-server-key={}", file(KEY)),
        ]);
        flags.extend((may_ask && is_mutual(tls)).then(|| format!("--{port}-root-cert={}", file(CLIENT_ROOTS))));
    }
    flags
}

/// The flag of TLS that `name` is or begins, if `extraArgs` may not have it: that of any port where the spec has a certificate, that of
/// HTTP in any case, since probes would not know of it.
pub(crate) fn own_flag(spec: &TritonServerSpec, name: &str) -> Option<String> {
    let ports = PORTS.into_iter().filter(|(port, _)| spec.tls.is_some() || *port == "http");
    let flags = ports.flat_map(|(port, _)| FLAGS.map(|flag| format!("{port}-{flag}")));
    flags.into_iter().find(|flag| flag.starts_with(name))
}

/// How addresses begin at which the server is reached over HTTP.
pub(crate) fn scheme(spec: &TritonServerSpec) -> &'static str {
    if spec.tls.is_some() { "https" } else { "http" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(tls: serde_json::Value) -> TritonServerSpec {
        serde_json::from_value(serde_json::json!({ "tls": tls })).unwrap()
    }

    #[test]
    fn every_port_shows_the_certificate_and_metrics_ask_for_none() {
        let one_side = spec(serde_json::json!({ "secretName": "a" })).tls.unwrap();
        assert_eq!(keys(&one_side).collect::<Vec<_>>(), ["tls.crt", "tls.key"]);
        let of = |port: &str| {
            [
                format!("--{port}-use-ssl=true"),
                format!("--{port}-server-cert=/tls/tls.crt"),
                format!("--{port}-server-key=/tls/tls.key"),
            ]
        };
        assert_eq!(flags(&one_side), [of("http"), of("grpc"), of("metrics")].concat());
        let both = spec(serde_json::json!({ "secretName": "a", "clientCertificates": "Required" })).tls.unwrap();
        assert_eq!(keys(&both).last(), Some("ca.crt"));
        let flags = flags(&both);
        for port in ["http", "grpc"] {
            assert!(flags.contains(&format!("--{port}-use-ssl-mutual=true")), "{flags:?}");
            assert!(flags.contains(&format!("--{port}-root-cert=/tls/ca.crt")), "{flags:?}");
        }
        assert_eq!(flags[flags.len() - 3..], of("metrics"));
    }

    #[test]
    fn flags_beside_the_certificate_are_refused_by_any_name_the_server_takes() {
        let (plain, encrypted) = (TritonServerSpec::default(), spec(serde_json::json!({ "secretName": "a" })));
        for (name, without, with) in [
            ("http-use-ssl", Some("http-use-ssl"), Some("http-use-ssl")),
            ("http-use", Some("http-use-ssl"), Some("http-use-ssl")),
            ("grpc-server-key", None, Some("grpc-server-key")),
            ("metrics-use-ssl-m", None, Some("metrics-use-ssl-mutual")),
            ("grpc-keepalive-time", None, None),
        ] {
            assert_eq!(own_flag(&plain, name).as_deref(), without, "{name}");
            assert_eq!(own_flag(&encrypted, name).as_deref(), with, "{name}");
        }
    }
}
