//! Files that change while the server runs.

use std::{fs, os::unix::fs::symlink, time::Duration};

use rustls::ALL_VERSIONS;
use server_tls::Acceptor;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::harness::{Folder, authority, client, handshake, issue, named};

const INTERVAL: Duration = Duration::from_millis(5);

/// Waits until clients that believe in this root are served.
async fn until_served_under(acceptor: &Acceptor, root: &str) {
    let served = async { while handshake(acceptor, client(root, None, ALL_VERSIONS)).await.0.is_err() {} };
    timeout(Duration::from_secs(20), served).await.expect("the new certificate is used");
}

#[tokio::test]
async fn new_files_are_used_and_connections_that_are_there_stay() {
    let (old, new) = (authority(), authority());
    let folder = Folder::with(&issue(&old, &named("server")));
    let (acceptor, reloader) = folder.load().unwrap();
    let following = tokio::spawn(acceptor.clone().follow(reloader, INTERVAL));
    let (ours, theirs) = handshake(&acceptor, client(&old.pem(), None, ALL_VERSIONS)).await;
    let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());

    let pair = issue(&new, &named("server"));
    folder.write("server.crt", &pair.certificate);
    folder.write("server.key", &pair.key);
    until_served_under(&acceptor, &new.pem()).await;
    assert!(handshake(&acceptor, client(&old.pem(), None, ALL_VERSIONS)).await.0.is_err());
    ours.write_all(b"still here").await.unwrap();
    ours.flush().await.unwrap();
    theirs.read_exact(&mut [0; 10]).await.unwrap();
    following.abort();
}

#[tokio::test]
async fn a_secret_that_kubernetes_mounts_is_followed() {
    let (old, new) = (authority(), authority());
    let folder = Folder::with(&issue(&old, &named("server")));
    // ..data -> ..1, server.crt -> ..data/server.crt: an update makes ..2 and renames a link over ..data
    for (version, root) in [("..1", &old), ("..2", &new)] {
        fs::create_dir(folder.path(version)).unwrap();
        let pair = issue(root, &named("server"));
        folder.write(&format!("{version}/server.crt"), &pair.certificate);
        folder.write(&format!("{version}/server.key"), &pair.key);
    }
    symlink("..1", folder.path("..data")).unwrap();
    for name in ["server.crt", "server.key"] {
        fs::remove_file(folder.path(name)).unwrap();
        symlink(format!("..data/{name}"), folder.path(name)).unwrap();
    }
    let (acceptor, reloader) = folder.load().unwrap();
    let following = tokio::spawn(acceptor.clone().follow(reloader, INTERVAL));
    until_served_under(&acceptor, &old.pem()).await;
    symlink("..2", folder.path("..data_tmp")).unwrap();
    fs::rename(folder.path("..data_tmp"), folder.path("..data")).unwrap();
    until_served_under(&acceptor, &new.pem()).await;
    following.abort();
}
