//! Files that are no good, each with its own words.

use std::fs;

use crate::harness::{Folder, Pair, authority, fixture, issue, named};

fn good() -> Pair {
    issue(&authority(), &named("server"))
}

#[test]
fn files_that_cannot_be_read_are_named_with_the_reason() {
    let folder = Folder::with(&good());
    fs::remove_file(folder.path("server.key")).unwrap();
    assert_eq!(folder.problem(), "--server-key 'server.key' cannot be read: No such file or directory (os error 2)");
    fs::create_dir(folder.path("server.key")).unwrap();
    assert_eq!(folder.problem(), "--server-key 'server.key' is not a file: give the path of a file in PEM");
    folder.write("server.crt", "");
    assert_eq!(folder.problem(), "--server-cert 'server.crt' is empty: expected PEM");
    folder.write("server.crt", vec![b'-'; 5 << 20]);
    let expect = "--server-cert 'server.crt' has more than 4194304 bytes: give a file with certificates only";
    assert_eq!(folder.problem(), expect);
}

#[test]
fn what_is_not_pem_is_refused() {
    let pair = good();
    let folder = Folder::with(&pair);
    let nothing = |name: &str, what: &str, label: &str| {
        format!("{name} holds no {what}: expected PEM with a line '-----BEGIN {label}-----'")
    };
    folder.write("server.crt", b"\0\xff\x30\x82 junk");
    assert_eq!(folder.problem(), nothing("--server-cert 'server.crt'", "certificate", "CERTIFICATE"));
    folder.write("server.crt", &pair.key);
    assert_eq!(folder.problem(), nothing("--server-cert 'server.crt'", "certificate", "CERTIFICATE"));
    folder.write("server.crt", &pair.certificate[..pair.certificate.len() / 2]);
    let cut = "--server-cert 'server.crt' is not PEM: a section 'CERTIFICATE' has no end: the file was cut";
    assert_eq!(folder.problem(), cut);
    folder.write("server.crt", "-----BEGIN CERTIFICATE\nMAA=\n");
    assert_eq!(folder.problem(), "--server-cert 'server.crt' is not PEM: '-----BEGIN CERTIFICATE' begins no section");
    folder.write("server.crt", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n");
    let bad = "--server-cert 'server.crt' holds a certificate that cannot be read: ";
    assert!(folder.problem().starts_with(bad), "{}", folder.problem());
    folder.write("server.crt", &pair.certificate);
    folder.write("server.key", &pair.certificate);
    assert_eq!(folder.problem(), nothing("--server-key 'server.key'", "private key", "PRIVATE KEY"));
    folder.write("root.crt", "nothing");
    folder.write("server.key", &pair.key);
    assert_eq!(folder.problem(), nothing("--root-cert 'root.crt'", "certificate", "CERTIFICATE"));
}

#[test]
fn keys_that_cannot_be_used_are_refused() {
    let pair = good();
    let folder = Folder::with(&pair);
    folder.write("server.key", good().key);
    let problem = folder.problem();
    let expect = "--server-key 'server.key' holds a key that does not belong to the certificate in --server-cert";
    assert!(problem.starts_with(expect), "{problem}");
    for text in [
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMAA=\n-----END RSA PRIVATE KEY-----\n",
    ] {
        folder.write("server.key", text);
        assert!(folder.problem().contains("holds a key that is encrypted: write it without"), "{}", folder.problem());
    }
    folder.write("server.key", "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n");
    assert!(folder.problem().starts_with("--server-key 'server.key' holds a key that cannot be used: "));
}

#[test]
fn every_form_of_key_and_text_around_it_is_read() {
    let folder = Folder::with(&good());
    folder.load().map(drop).unwrap();
    // SEC1 and PKCS#1, with certificates of version 1
    for name in ["server", "client"] {
        let Pair { certificate, key } = fixture(name);
        assert!(key.contains(if name == "server" { "BEGIN EC PRIVATE KEY" } else { "BEGIN RSA PRIVATE KEY" }));
        folder.write("server.crt", format!("Certificate:\r\n    Data:\r\n{}", certificate.replace('\n', "\r\n")));
        folder.write("server.key", format!("Bag Attributes\n{certificate}\n{key}"));
        folder.load().map(drop).unwrap();
    }
}
