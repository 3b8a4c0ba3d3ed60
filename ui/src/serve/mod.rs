//! `isobar serve`: opens the port, starts the parts, serves until told to stop, and stops in order.
//!
//! The order matters. The port is open before the write-ahead log is read, so that probes see a process that lives; the
//! parts are ready before the front lets requests through; at the end requests are finished first, then the heads are
//! flushed, then the process ends.

mod admin;
mod auth;
mod block_status;
mod compaction;
mod exposition;
mod facts;
mod front;
mod host;
mod lineage;
mod listen;
mod metrics;
mod operate;
mod other_server;
mod params;
mod parts;
mod refusal;
mod self_scrape;
mod start_page;
mod status;
mod storage;
#[cfg(test)]
mod tests;

use std::net::{SocketAddr, TcpListener};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use axum::Router;
use axum_server::tls_rustls::RustlsConfig;
use parking_lot::RwLock;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::load::{Inputs, Loaded};
use crate::config::web::WebFile;
use crate::config::{Config, objstore};
use crate::logging;
use auth::Auth;
use facts::{Facts, Live};
use front::{Front, FrontConfig, Phase};
use metrics::Metrics;
use parts::Parts;

/// What the routes of this crate work with. Clones share it.
#[derive(Clone)]
pub struct Shared(Arc<State>);

/// See [`Shared`].
pub struct State {
    inputs: Inputs,
    live: Live,
    front: Arc<Front>,
    parts: Parts,
    registry: Arc<Registry>,
    metrics: Metrics,
    tls_config: Option<RustlsConfig>,
    rate: status::Rate,
    started: Instant,
    prefix: String,
    instance: String,
    store_description: String,
    tls: bool,
    stop: watch::Sender<bool>,
}

impl Deref for Shared {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

/// Runs until SIGTERM, SIGINT or `/-/quit`.
///
/// # Errors
/// If the configuration is wrong, the port is taken, or a part cannot start.
pub fn run(inputs: Inputs) -> anyhow::Result<()> {
    let loaded = inputs.load()?;
    logging::start(loaded.config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread().thread_name("isobar").enable_all().build().context("cannot start threads")?;
    let result = runtime.block_on(serve(inputs, loaded));
    if let Err(error) = &result {
        tracing::error!("{error:#}");
    }
    result
}

async fn serve(inputs: Inputs, loaded: Loaded) -> anyhow::Result<()> {
    let config = loaded.config.clone();
    let web = WebFile::load(config.web.config_file.as_deref())?;
    for warning in loaded.warnings.iter().chain(&web.warnings) {
        tracing::warn!("{warning}");
    }
    warn_if_open(&config, &web)?;
    let tls = web.tls.as_ref().map(listen::tls_config).transpose()?.map(|tls| RustlsConfig::from_config(Arc::new(tls)));
    let address = config.listen_address()?;
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address} (web.listen-address)"))?;
    let address = listener.local_addr()?;

    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let front_config = FrontConfig { prefix: config.route_prefix()?, cors_origin: config.web.cors_origin.clone() };
    let prefix = front_config.prefix.clone();
    let front = Arc::new(Front::new(front_config, Auth::new(web.users), metrics.clone())?);
    front.set_headers(&web.headers);
    let handle = axum_server::Handle::new();
    let mut server = tokio::spawn(listen::serve(listener, tls.clone(), Arc::clone(&front), handle.clone()));
    tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), tls = tls.is_some(), roles = %config.roles.show(), "listening");

    let started = Instant::now();
    let (stop, stopped) = watch::channel(false);
    watch_stop_signals(stop.clone())?;
    let live: Live = Arc::new(RwLock::new(Arc::new(loaded)));
    metrics.reloaded(true);
    let facts = Facts::new(Arc::clone(&live), metrics.clone());
    let registered = Arc::clone(&facts.registry);
    let opening = open(&config, &mut registry, facts);
    let mut stopped_early = stopped.clone();
    let (parts, store_description) = tokio::select! {
        opened = opening => opened?,
        _ = stopped_early.wait_for(|stop| *stop) => {
            // Nothing was taken yet; what is in the log is read at the next start.
            tracing::info!("stopped while starting");
            return Ok(());
        }
    };
    let took = started.elapsed();
    let registry = Arc::clone(registered.get_or_init(|| Arc::new(registry)));
    let instance = if config.is_loopback()? || !address.ip().is_unspecified() {
        address.to_string()
    } else {
        format!("{}:{}", host::name(), address.port())
    };
    let shared = Shared(Arc::new(State {
        inputs,
        live,
        front: Arc::clone(&front),
        parts,
        registry,
        metrics,
        tls: tls.is_some(),
        tls_config: tls,
        rate: status::Rate::new(),
        started,
        prefix,
        instance,
        store_description,
        stop,
    }));
    front.open(routes(&shared));
    tracing::info!(seconds = took.as_secs_f64(), store = %shared.store_description, "ready");
    let scrape = start_self_scrape(&shared, &config, stopped.clone());
    let hangups = tokio::spawn(reload_on_hangup(shared.clone()));

    let mut wait = stopped;
    tokio::select! {
        _ = wait.wait_for(|stop| *stop) => {}
        ended = &mut server => { ended??; anyhow::bail!("the HTTP server ended by itself"); }
    }
    stop_in_order(&shared, &config, &handle, server, scrape, hangups).await
}

async fn open(config: &Config, registry: &mut Registry, facts: Facts) -> anyhow::Result<(Parts, String)> {
    std::fs::create_dir_all(&config.data).with_context(|| format!("cannot make the folder {} (--data)", config.data.display()))?;
    let (store, description) = objstore::open(config.objstore_config_file.as_deref(), &config.data)?;
    Ok((Parts::open(config, store, registry, facts).await?, description))
}

/// All routes behind the front.
fn routes(shared: &Shared) -> Router {
    let own: Router =
        start_page::routes().merge(operate::routes()).merge(admin::routes()).merge(block_status::routes()).with_state(shared.clone());
    let all = own.merge(shared.parts.routes(&shared.config()));
    all.layer(axum::middleware::from_fn_with_state(shared.metrics.clone(), metrics::track))
}

fn start_self_scrape(shared: &Shared, config: &Config, stopped: watch::Receiver<bool>) -> Option<tokio::task::JoinHandle<()>> {
    if config.self_scrape_interval.is_zero() {
        return None;
    }
    let (sink, tenant) = shared.parts.sink()?;
    let scrape = self_scrape::SelfScrape {
        sink,
        tenant,
        registry: Arc::clone(&shared.registry),
        metrics: shared.metrics.clone(),
        data: config.data.clone(),
        instance: shared.instance.clone(),
        interval: config.self_scrape_interval,
    };
    Some(tokio::spawn(scrape.run(stopped)))
}

async fn stop_in_order(
    shared: &Shared,
    config: &Config,
    handle: &axum_server::Handle<SocketAddr>,
    server: tokio::task::JoinHandle<anyhow::Result<()>>,
    scrape: Option<tokio::task::JoinHandle<()>>,
    hangups: tokio::task::JoinHandle<()>,
) -> anyhow::Result<()> {
    tracing::info!("stopping: finishing requests");
    shared.front.set_phase(Phase::Stopping);
    shared.parts.cancel_compaction();
    hangups.abort();
    handle.graceful_shutdown(Some(config.web.grace_period));
    if let Err(error) = server.await.map_err(anyhow::Error::from).and_then(|ended| ended) {
        tracing::warn!(error = %format!("{error:#}"), "the HTTP server did not end in order");
    }
    if let Some(scrape) = scrape {
        let _panicked = scrape.await;
    }
    tracing::info!("stopping: flushing");
    shared.parts.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

impl State {
    /// The configuration in force.
    pub fn config(&self) -> Config {
        self.live.read().config.clone()
    }

    /// Ends the process in order.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Reads the configuration again and puts in force what can change while running: users, certificates, headers, limits
    /// and rules of tenants, the log level. Nothing changes if anything is wrong.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn reload(&self) -> anyhow::Result<()> {
        let result = self.try_reload();
        self.metrics.reloaded(result.is_ok());
        match &result {
            Ok(()) => tracing::info!("configuration was reloaded"),
            Err(error) => tracing::error!(error = %format!("{error:#}"), "configuration was not reloaded"),
        }
        result
    }

    fn try_reload(&self) -> anyhow::Result<()> {
        let mut loaded = self.inputs.load()?;
        // The port stays open where it is: what may be done there is judged by that, not by what the file says now.
        loaded.config.web.listen_address.clone_from(&self.config().web.listen_address);
        loaded.config.validate()?;
        let web = WebFile::load(loaded.config.web.config_file.as_deref())?;
        match (&web.tls, &self.tls_config) {
            (Some(tls), Some(running)) => running.reload_from_config(Arc::new(listen::tls_config(tls)?)),
            (None, None) => {}
            _ => anyhow::bail!("TLS cannot be turned on or off while running; restart for that"),
        }
        self.front.auth().replace(web.users);
        self.front.set_headers(&web.headers);
        logging::set_level(loaded.config.log.level);
        self.parts.set_rules(&loaded.config)?;
        *self.live.write() = Arc::new(loaded);
        Ok(())
    }

    async fn flush(&self) -> anyhow::Result<()> {
        self.parts.flush().await
    }
}

fn warn_if_open(config: &Config, web: &WebFile) -> anyhow::Result<()> {
    if !config.is_loopback()? && web.users.is_empty() {
        tracing::warn!(
            address = %config.web.listen_address,
            "everyone who reaches this address can read and write; name users in --web.config.file, or listen on 127.0.0.1"
        );
    }
    Ok(())
}

fn watch_stop_signals(stop: watch::Sender<bool>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "received signal");
        stop.send_replace(true);
    });
    Ok(())
}

async fn reload_on_hangup(shared: Shared) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        // The result is logged and counted.
        let _logged = shared.reload().await;
    }
}
