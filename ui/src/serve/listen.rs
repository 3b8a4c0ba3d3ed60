//! The socket: plain or TLS, HTTP/1.1 or HTTP/2, with a limit on connections and a graceful end.
//!
//! HTTP/2 is for gRPC, which needs it: over TLS it is agreed on, without TLS it is spoken at once (prior knowledge).

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use axum_server::Handle;
use axum_server::accept::{Accept, NoDelayAcceptor};
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::front::Front;
use crate::config::web::Tls;

/// Connections at once, as in Prometheus; further ones are closed at once.
const MAX_CONNECTIONS: usize = 512;

/// How long a client may take to send its headers, and how long a kept connection may be idle: as in Prometheus.
const HEADER_TIMEOUT: Duration = Duration::from_secs(300);

/// Requests at once on a connection of HTTP/2; what hyper has by default, named here because it is a limit.
const MAX_STREAMS: u32 = 200;

/// A connection of HTTP/2 that is idle is asked so often whether anybody is there, and closed if nobody answers in time.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves on a bound socket until the handle ends it.
///
/// # Errors
/// If the socket fails.
pub async fn serve(listener: TcpListener, tls: Option<RustlsConfig>, front: Arc<Front>, handle: Handle<SocketAddr>) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let routes = axum::Router::new().fallback(move |request: axum::extract::Request| {
        let front = Arc::clone(&front);
        async move { front.handle(request).await }
    });
    let service = routes.into_make_service();
    let mut server = axum_server::from_tcp(listener)?.handle(handle);
    server.http_builder().http1().timer(hyper_util::rt::TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let mut builder = server.http_builder().http2();
    builder.timer(hyper_util::rt::TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
    builder.keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIMEOUT);
    match tls {
        None => server.acceptor(Limited { inner: NoDelayAcceptor::new(), slots }).serve(service).await?,
        Some(config) => {
            let inner = RustlsAcceptor::new(config).acceptor(NoDelayAcceptor::new());
            server.acceptor(Limited { inner, slots }).serve(service).await?;
        }
    }
    Ok(())
}

/// Reads certificate and key.
///
/// # Errors
/// With the file that is wrong.
pub fn tls_config(tls: &Tls) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificates = certificates(&tls.cert_file)?;
    let key =
        PrivateKeyDer::from_pem_file(&tls.key_file).with_context(|| format!("tls_server_config.key_file {}", tls.key_file.display()))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match &tls.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in self::certificates(path)? {
                roots.add(certificate).with_context(|| format!("tls_server_config.client_ca_file {}", path.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if tls.require_client_certificate { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build()?)
        }
    };
    let mut config = builder
        .with_single_cert(certificates, key)
        .with_context(|| format!("tls_server_config: {} and {} do not fit", tls.cert_file.display(), tls.key_file.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &std::path::Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let what = || format!("tls_server_config: certificates in {}", path.display());
    let certificates = CertificateDer::pem_file_iter(path).with_context(what)?.collect::<Result<Vec<_>, _>>().with_context(what)?;
    anyhow::ensure!(!certificates.is_empty(), "{}: there are none", what());
    Ok(certificates)
}

/// Closes connections beyond the limit before anything is read from them.
#[derive(Clone)]
struct Limited<A> {
    inner: A,
    slots: Arc<Semaphore>,
}

impl<A, S> Accept<TcpStream, S> for Limited<A>
where
    A: Accept<TcpStream, S>,
    A::Future: Send + 'static,
{
    type Stream = A::Stream;
    type Service = Held<A::Service>;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        let accepted = self.inner.accept(stream, service);
        Box::pin(async move {
            let slot = slot.map_err(|_| io::Error::other("too many connections"))?;
            let (stream, service) = accepted.await?;
            Ok((stream, Held { service, _slot: Arc::new(slot) }))
        })
    }
}

/// A service that keeps its connection's slot.
#[derive(Clone)]
struct Held<S> {
    service: S,
    _slot: Arc<OwnedSemaphorePermit>,
}

impl<S: tower::Service<R>, R> tower::Service<R> for Held<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.service.call(request)
    }
}
