//! Accepts connections, so many at a time and no more: whoever may reach a port must not be able to use up memory.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

/// Hands each connection to `serve`, at most `most` of them at a time; further ones wait. Goes on for as long as it is polled.
pub(crate) async fn accept<F>(listener: TcpListener, most: usize, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(most));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return }; // never closed
        match listener.accept().await {
            Ok((socket, _)) => {
                let _ = socket.set_nodelay(true); // only slower without it
                let serving = serve(socket);
                tokio::spawn(async move {
                    serving.await;
                    drop(permit);
                });
            }
            // out of files: those that are open will be closed
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn no_more_than_so_many_are_served_at_a_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let echo = |mut socket: TcpStream| async move {
            let mut byte = [0];
            while socket.read_exact(&mut byte).await.is_ok() {
                socket.write_all(&byte).await.unwrap();
            }
        };
        tokio::spawn(accept(listener, 1, echo));
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(b"a").await.unwrap();
        assert_eq!(first.read_u8().await.unwrap(), b'a');
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(b"b").await.unwrap();
        let waiting = tokio::time::timeout(Duration::from_millis(200), second.read_u8()).await;
        assert!(waiting.is_err(), "it waits for the first one to end");
        drop(first);
        let served = tokio::time::timeout(Duration::from_secs(60), second.read_u8()).await;
        assert_eq!(served.unwrap().unwrap(), b'b');
    }
}
