//! A network that fails on command, between Isobar and an object store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

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
    /// Of all requests about one in six meets a fault: 500, 503 SlowDown, no answer for a while and then the end of the
    /// connection, or an answer that ends in the middle, after the server has done what was asked.
    Storm,
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

/// What a request meets in a storm.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passes,
    Fails,
    SlowDown,
    NoAnswer,
    Torn,
}

impl Fate {
    fn draw() -> Self {
        match rand::random_range(0..100) {
            0..5 => Self::Fails,
            5..10 => Self::SlowDown,
            10..12 => Self::NoAnswer,
            12..16 => Self::Torn,
            _ => Self::Passes,
        }
    }
}

/// How long a request in a storm waits for nothing.
const NO_ANSWER: Duration = Duration::from_millis(1500);

const FAILED: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

fn slow_down() -> Vec<u8> {
    let body =
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
    let head = "HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\n";
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Whether bytes begin a request.
fn begins_request(bytes: &[u8]) -> bool {
    [&b"GET "[..], b"PUT ", b"POST ", b"HEAD ", b"DELETE "].iter().any(|method| bytes.starts_with(method))
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
    let mut fate = Fate::Passes;
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Ok(n @ 1..) = read else { return };
                if begins_request(&from_client[..n]) {
                    fate = if is(&mode, Mode::Storm) { Fate::draw() } else { Fate::Passes };
                }
                if is(&mode, Mode::Fail) || fate == Fate::Fails {
                    let _gone = client.write_all(FAILED).await;
                    return;
                }
                if fate == Fate::SlowDown {
                    let _gone = client.write_all(&slow_down()).await;
                    return;
                }
                if fate == Fate::NoAnswer {
                    tokio::time::sleep(NO_ANSWER).await;
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
                if fate == Fate::Torn {
                    let _gone = client.write_all(&from_server[..n / 2]).await;
                    return;
                }
                if !is(&mode, Mode::Hang) && client.write_all(&from_server[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}
