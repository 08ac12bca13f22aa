//! Which clients are let in, by what they bring.

use rustls::{
    ALL_VERSIONS,
    version::{TLS12, TLS13},
};
use server_tls::{AcceptError, Acceptor, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Folder, Pair, authority, client, fixture, handshake, issue, named, sockets};

/// Whether a byte from a client with this certificate comes through.
async fn is_let_in(acceptor: &Acceptor, root: &str, identity: Option<&Pair>) -> bool {
    let mut all = Vec::new();
    for version in [&TLS12, &TLS13] {
        let (ours, theirs) = handshake(acceptor, client(root, identity, &[version])).await;
        all.push(match (ours, theirs) {
            (Ok(mut ours), Ok(mut theirs)) => {
                ours.write_all(b"x").await.unwrap();
                ours.flush().await.unwrap();
                theirs.read_u8().await.unwrap() == b'x'
            }
            // in TLS 1.3 a client learns later that it is refused
            (_, Err(AcceptError::Failed(_))) => false,
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(all[0], all[1], "both versions of TLS judge alike");
    all[0]
}

#[tokio::test]
async fn without_roots_nobody_is_asked_for_a_certificate() {
    let root = authority();
    let (acceptor, _) = Folder::with(&issue(&root, &named("server"))).load().unwrap();
    assert!(is_let_in(&acceptor, &root.pem(), None).await);
    assert!(is_let_in(&acceptor, &root.pem(), Some(&issue(&authority(), &named("client")))).await);
    // a client that believes in another root leaves
    let (ours, theirs) = handshake(&acceptor, client(&authority().pem(), None, ALL_VERSIONS)).await;
    assert!(ours.is_err() && matches!(theirs, Err(AcceptError::Failed(_))));
}

#[tokio::test]
async fn with_roots_a_client_needs_a_certificate_of_theirs() {
    let (root, client_root, other) = (authority(), authority(), authority());
    let folder = Folder::with(&issue(&root, &named("server")));
    folder.write("root.crt", authority().pem() + &client_root.pem());
    let (acceptor, _) = folder.load().unwrap();
    let judge = async |identity: Option<&Pair>| is_let_in(&acceptor, &root.pem(), identity).await;
    assert!(judge(Some(&issue(&client_root, &named("client")))).await);
    assert!(!judge(None).await);
    assert!(
        !judge(Some(&issue(&other, &named("client")))).await,
        "the names of the roots are the same, their keys not"
    );
    let mut expired = named("client");
    expired.not_after = rcgen::date_time_ymd(2001, 1, 1);
    assert!(!judge(Some(&issue(&client_root, &expired))).await);
    let mut early = named("client");
    early.not_before = rcgen::date_time_ymd(3000, 1, 1);
    assert!(!judge(Some(&issue(&client_root, &early))).await);
    // a root that is a client itself
    let itself = Pair { certificate: client_root.pem(), key: client_root.key().serialize_pem() };
    assert!(judge(Some(&itself)).await);
    let stranger = Pair { certificate: other.pem(), key: other.key().serialize_pem() };
    assert!(!judge(Some(&stranger)).await);
}

#[tokio::test]
async fn certificates_of_version_1_are_judged_like_others() {
    let (root, old) = (authority(), fixture("client"));
    let folder = Folder::with(&issue(&root, &named("server")));
    folder.write("root.crt", fixture("ca").certificate);
    let (acceptor, _) = folder.load().unwrap();
    assert!(is_let_in(&acceptor, &root.pem(), Some(&old)).await);
    assert!(is_let_in(&acceptor, &root.pem(), Some(&fixture("server"))).await);
    // the certificate is not enough: its key is needed
    for other in [fixture("server").key, issue(&root, &named("client")).key] {
        assert!(!is_let_in(&acceptor, &root.pem(), Some(&Pair { key: other, ..old.clone() })).await);
    }
    folder.write("root.crt", root.pem());
    let (acceptor, _) = folder.load().unwrap();
    assert!(!is_let_in(&acceptor, &root.pem(), Some(&old)).await, "another root");
}

#[tokio::test]
async fn protocols_are_agreed_on_by_name() {
    let root = authority();
    let folder = Folder::with(&issue(&root, &named("server")));
    for (protocol, name, other) in [(Protocol::Http1, "http/1.1", "h2"), (Protocol::Http2, "h2", "http/1.1")] {
        let (acceptor, _) = Acceptor::load(folder.files(), protocol).unwrap();
        for (offered, expected) in [(vec![other, name], Some(name)), (vec![], None)] {
            let mut client = client(&root.pem(), None, ALL_VERSIONS);
            client.alpn_protocols = offered.into_iter().map(Into::into).collect();
            let (ours, theirs) = handshake(&acceptor, client).await;
            assert_eq!(ours.unwrap().get_ref().1.alpn_protocol(), expected.map(str::as_bytes));
            theirs.unwrap();
        }
        let mut client = client(&root.pem(), None, ALL_VERSIONS);
        client.alpn_protocols = vec![other.into()];
        let (ours, theirs) = handshake(&acceptor, client).await;
        assert!(ours.is_err() && theirs.is_err());
    }
}

#[tokio::test]
async fn what_is_not_tls_is_given_back_unread() {
    let (acceptor, _) = Folder::with(&issue(&authority(), &named("server"))).load().unwrap();
    let (mut ours, theirs) = sockets().await;
    ours.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let Err(AcceptError::NotTls(mut theirs)) = acceptor.accept(theirs).await else { panic!("taken for TLS") };
    let mut read = [0; 16];
    theirs.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"GET / HTTP/1.1\r\n");
    // what begins like TLS and is not, and nothing at all
    for junk in [b"\x16\x03\x01\x00\x05junk!".as_slice(), b"\x16\xff\xff\xff\xff", b"\x16", b""] {
        let (mut ours, theirs) = sockets().await;
        ours.write_all(junk).await.unwrap();
        ours.shutdown().await.unwrap();
        assert!(matches!(acceptor.accept(theirs).await, Err(AcceptError::Failed(_))), "{junk:?}");
    }
}
