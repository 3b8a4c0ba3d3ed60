//! A network that fails on command, between Isobar and an object store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Passes everything on.
    Pass,
    /// Accepts connections, answers each request with status 500.
    Fail,
    /// Accepts connections and never answers.
    Hang,
    /// Refuses connections.
    Refuse,
}

/// A TCP proxy in front of a server.
pub struct FaultyNetwork {
    /// Where it listens.
    pub port: u16,
    mode: Arc<AtomicU8>,
}

impl FaultyNetwork {
    /// Listens on a port of its own and passes on to `upstream`, a port on loopback.
    pub async fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port is free");
        let port = listener.local_addr().expect("bound").port();
        let mode = Arc::new(AtomicU8::new(Mode::Pass as u8));
        let shared = Arc::clone(&mode);
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                tokio::spawn(serve(client, upstream, Arc::clone(&shared)));
            }
        });
        Self { port, mode }
    }

    /// Changes what happens, for open connections too.
    pub fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }
}

fn is(mode: &AtomicU8, wanted: Mode) -> bool {
    mode.load(Ordering::SeqCst) == wanted as u8
}

async fn serve(mut client: TcpStream, upstream: u16, mode: Arc<AtomicU8>) {
    if is(&mode, Mode::Refuse) {
        return;
    }
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
    let (mut from_client, mut from_server) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Ok(n @ 1..) = read else { return };
                if is(&mode, Mode::Fail) {
                    let _gone = client.write_all(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
                    return;
                }
                if is(&mode, Mode::Refuse) {
                    return;
                }
                if !is(&mode, Mode::Hang) && server.write_all(&from_client[..n]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut from_server) => {
                let Ok(n @ 1..) = read else { return };
                if !is(&mode, Mode::Hang) && client.write_all(&from_server[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}
