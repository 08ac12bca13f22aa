//! What is read and written through an encrypted stream, and how its end is seen.

use std::{future::poll_fn, io::IoSlice, pin::Pin, task::Poll, time::Duration};

use rustls::ALL_VERSIONS;
use server_tls::Stream;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::harness::{Folder, authority, client, handshake, issue, named};

async fn ends() -> (TlsStream<TcpStream>, Stream) {
    let root = authority();
    let (acceptor, _) = Folder::with(&issue(&root, &named("server"))).load().unwrap();
    let (ours, theirs) = handshake(&acceptor, client(&root.pem(), None, ALL_VERSIONS)).await;
    (ours.unwrap(), theirs.unwrap())
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

#[tokio::test]
async fn bytes_of_every_size_arrive_in_order_both_ways() {
    let (ours, theirs) = ends().await;
    let sent = pattern(3 << 20);
    let expected = sent.clone();
    let (mut our_read, mut our_write) = tokio::io::split(ours);
    let echoed = tokio::spawn(async move {
        let mut all = Vec::new();
        our_read.read_to_end(&mut all).await.unwrap();
        all
    });
    let sending = tokio::spawn(async move {
        for chunk in sent.chunks(77_777) {
            our_write.write_all(chunk).await.unwrap();
        }
        our_write.shutdown().await.unwrap();
    });
    let (mut read, mut write) = tokio::io::split(theirs);
    let mut buffer = vec![0; 100_000];
    loop {
        let count = read.read(&mut buffer).await.unwrap();
        if count == 0 {
            break;
        }
        write.write_all(&buffer[..count]).await.unwrap();
    }
    write.shutdown().await.unwrap();
    sending.await.unwrap();
    assert!(echoed.await.unwrap() == expected, "bytes were lost or moved");
}

#[tokio::test]
async fn several_pieces_leave_in_one_write() {
    let (mut ours, mut theirs) = ends().await;
    let pieces = [IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"two")];
    assert!(theirs.is_write_vectored());
    let count = poll_fn(|context| Pin::new(&mut theirs).poll_write_vectored(context, &pieces)).await.unwrap();
    assert_eq!(count, 7);
    theirs.flush().await.unwrap();
    let mut read = [0; 7];
    ours.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"one two");
}

#[tokio::test]
async fn the_end_of_the_client_is_seen_without_reading() {
    for is_announced in [true, false] {
        let (mut ours, mut theirs) = ends().await;
        let pending = poll_fn(|context| Poll::Ready(theirs.poll_is_at_end(context).is_pending()));
        assert!(pending.await, "nothing has come");
        ours.write_all(b"last words").await.unwrap();
        ours.flush().await.unwrap();
        for _ in 0..2 {
            assert!(!poll_fn(|context| theirs.poll_is_at_end(context)).await.unwrap(), "there is something to read");
        }
        match is_announced {
            true => ours.shutdown().await.unwrap(),
            false => ours.get_mut().0.shutdown().await.unwrap(),
        }
        let mut read = [0; 10];
        theirs.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"last words");
        for _ in 0..2 {
            assert!(poll_fn(|context| theirs.poll_is_at_end(context)).await.unwrap());
        }
        assert_eq!(theirs.read(&mut read).await.unwrap(), 0);
        // and the other direction is still open
        theirs.write_all(b"answer").await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut answer = String::new();
        ours.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
    }
}

#[tokio::test]
async fn a_full_socket_is_seen_although_tls_takes_more() {
    let (mut ours, mut theirs) = ends().await;
    let begun = theirs.progress().unwrap();
    assert!(!begun.is_blocked);
    let part = pattern(64 << 10);
    let mut written = 0;
    while !theirs.progress().unwrap().is_blocked {
        let taken = poll_fn(|context| Poll::Ready(Pin::new(&mut theirs).poll_write(context, &part))).await;
        if let Poll::Ready(taken) = taken {
            written += taken.unwrap();
        }
    }
    let stopped = theirs.progress().unwrap().sent;
    assert!(stopped > begun.sent && (stopped - begun.sent) < written as u64, "TLS holds what the socket did not take");
    let mut read = vec![0; written];
    let (flushed, read) = tokio::join!(theirs.flush(), ours.read_exact(&mut read));
    flushed.unwrap();
    read.unwrap();
    let done = theirs.progress().unwrap();
    assert!(!done.is_blocked && done.sent > written as u64);
}

#[tokio::test]
async fn a_handshake_that_stops_waits_until_it_is_dropped() {
    let (acceptor, _) = Folder::with(&issue(&authority(), &named("server"))).load().unwrap();
    let (mut ours, theirs) = crate::harness::sockets().await;
    ours.write_all(b"\x16\x03\x01\x02\x00\x01\x00").await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(20), acceptor.accept(theirs)).await.is_err());
    assert_eq!(ours.read(&mut [0; 1]).await.unwrap_or(0), 0, "the socket is closed");
}
