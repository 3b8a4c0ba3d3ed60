//! What the nodes are called: the same names that OpenLineage, Kubernetes and meshes give them, so that one node results.
//!
//! OpenLineage's naming: a namespace made of scheme, host and port, and a name from the database down to the table. OpenTelemetry has
//! the same in pieces, and leaves out ports that are the default ones. An IP address never becomes a service: it is somebody
//! else's tomorrow.

use std::net::IpAddr;

use regex::Regex;
use smallvec::SmallVec;

use super::attributes::{ResourceAttributes, SpanAttributes};
use super::sql::{self, MAX_TABLES};
use crate::model::{NodeKey, kind};

/// Probability that the edge to a peer that only an address names leads to where it says.
pub(crate) const ADDRESS_CONFIDENCE: f32 = 0.9;

/// The same for a database or broker that only an IP address names.
pub(crate) const IP_CONFIDENCE: f32 = 0.5;

/// How a system of OpenTelemetry is called in OpenLineage, with its default port, the schema of tables that name none, and how many
/// parts the name of a table has.
struct System {
    name: &'static str,
    scheme: &'static str,
    port: u16,
    schema: &'static str,
}

const fn system(name: &'static str, scheme: &'static str, port: u16, schema: &'static str) -> System {
    System { name, scheme, port, schema }
}

/// Systems whose names differ, or whose ports are known.
const SYSTEMS: &[System] = &[
    system("postgresql", "postgres", 5432, "public"),
    system("mysql", "mysql", 3306, ""),
    system("mariadb", "mysql", 3306, ""),
    system("microsoft.sql_server", "mssql", 1433, "dbo"),
    system("mssql", "mssql", 1433, "dbo"),
    system("oracle.db", "oracle", 1521, ""),
    system("oracle", "oracle", 1521, ""),
    system("cockroachdb", "cockroachdb", 26257, "public"),
    system("aws.redshift", "redshift", 5439, "public"),
    system("redshift", "redshift", 5439, "public"),
    system("ibm.db2", "db2", 50000, ""),
    system("db2", "db2", 50000, ""),
    system("clickhouse", "clickhouse", 9000, ""),
    system("cassandra", "cassandra", 9042, ""),
    system("mongodb", "mongodb", 27017, ""),
    system("redis", "redis", 6379, ""),
    system("memcached", "memcached", 11211, ""),
    system("elasticsearch", "elasticsearch", 9200, ""),
    system("opensearch", "opensearch", 9200, ""),
    system("trino", "trino", 8080, ""),
    system("kafka", "kafka", 9092, ""),
    system("rabbitmq", "amqp", 5672, ""),
    system("pulsar", "pulsar", 6650, ""),
    system("nats", "nats", 4222, ""),
];

/// Systems that keep values under keys: their databases are numbers or nothing, and their keys are no tables.
const KEY_VALUE: &[&str] = &["redis", "memcached"];

/// Addresses as an operator has them renamed.
#[derive(Debug, Default)]
pub(crate) struct Renames(pub Vec<(Regex, String)>);

impl Renames {
    /// The address under which the clients of all sources should know it; empty if it is to be left out.
    fn apply<'a>(&self, address: &'a str) -> std::borrow::Cow<'a, str> {
        self.0.iter().find(|(from, _)| from.is_match(address)).map_or(address.into(), |(from, to)| from.replace(address, to.as_str()))
    }
}

/// The node of a service.
pub(crate) fn service(namespace: &str, name: &str) -> Option<NodeKey> {
    NodeKey::new(kind::SERVICE, namespace, name).ok()
}

/// Whether a name is one that somebody has chosen. SDKs fill in `unknown_service`, which would make one service of many.
pub(crate) fn is_service_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with("unknown_service") && !is_ip(name)
}

/// The node of what runs a service in Kubernetes.
pub(crate) fn workload(resource: &ResourceAttributes<'_>) -> Option<NodeKey> {
    let known = !resource.k8s_workload.is_empty() && !resource.k8s_namespace.is_empty();
    known.then(|| NodeKey::new(kind::WORKLOAD, resource.k8s_namespace, resource.k8s_workload).ok()).flatten()
}

/// The node of a route or a method of a service, if the span tells it.
pub(crate) fn interface(namespace: &str, service: &str, span: &SpanAttributes<'_>) -> Option<NodeKey> {
    let name = if !span.http_route.is_empty() {
        format!("{} {}", span.http_method, span.http_route).trim_start().to_owned()
    } else if !span.rpc_method.is_empty() {
        match span.rpc_service {
            "" => span.rpc_method.to_owned(),
            service => format!("{service}/{}", span.rpc_method),
        }
    } else {
        return None;
    };
    let parts = [namespace, service, &name];
    NodeKey::from_parts(kind::INTERFACE, if namespace.is_empty() { &parts[1..] } else { &parts }).ok()
}

/// A database and what is used of it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Database {
    /// The server.
    pub server: Option<NodeKey>,
    /// The database on it.
    pub database: Option<NodeKey>,
    /// Tables, and whether they are written.
    pub tables: SmallVec<[(NodeKey, bool); 2]>,
    /// Only an IP address names the server.
    pub by_ip: bool,
}

/// What a database client span reaches. `None` if it does not say what kind of database it is.
pub(crate) fn database(span: &SpanAttributes<'_>, renames: &Renames) -> Option<Database> {
    let system = SYSTEMS.iter().find(|s| s.name == span.db_system);
    let scheme = system.map_or(span.db_system, |s| s.scheme);
    if scheme.is_empty() {
        return None;
    }
    let host = if span.server_address.is_empty() { span.peer_service } else { span.server_address };
    let port = if span.server_port == 0 { system.map_or(0, |s| s.port) } else { span.server_port };
    let authority = authority(host, port, renames);
    let namespace = if authority.is_empty() { scheme.to_owned() } else { format!("{scheme}://{authority}") };
    let mut out = Database { server: NodeKey::new(kind::DATABASE, "", &namespace).ok(), by_ip: is_ip(host), ..Database::default() };
    if KEY_VALUE.contains(&scheme) {
        return Some(out);
    }
    let (database, schema) = span.db_namespace.split_once('|').unwrap_or((span.db_namespace, ""));
    if !database.is_empty() {
        out.database = NodeKey::new(kind::DATABASE, &namespace, database).ok();
    }
    let schema = if schema.is_empty() { system.map_or("", |s| s.schema) } else { schema };
    let mut add = |name: &str, written: bool| {
        let name = table_name(database, schema, name);
        if let Some(name) = name
            && let Ok(table) = NodeKey::new(kind::DATASET, &namespace, &name)
        {
            out.tables.push((table, written));
        }
    };
    if span.db_collection.is_empty() {
        let found = sql::tables(span.db_statement);
        found.iter().take(MAX_TABLES).for_each(|t| add(t.name, t.written));
    } else {
        add(span.db_collection, is_write(span));
    }
    Some(out)
}

/// The name of a table in full, as far as it is known: database, schema, table. Without a database none can be told from another's.
fn table_name(database: &str, schema: &str, written: &str) -> Option<String> {
    let plain: String = written.chars().filter(|c| !matches!(c, '"' | '`' | '[' | ']')).collect();
    let parts: SmallVec<[&str; 4]> = plain.split('.').filter(|p| !p.is_empty()).collect();
    let wanted = 2 + usize::from(!schema.is_empty());
    let mut name: SmallVec<[&str; 4]> = SmallVec::new();
    if parts.is_empty() || parts.len() < wanted && database.is_empty() {
        return None;
    }
    if parts.len() < wanted {
        // `orders` in `shop|public`, `public.orders` in `shop`.
        name.push(database);
        if parts.len() + 1 < wanted {
            name.push(schema);
        }
    }
    name.extend(parts);
    Some(name.join("."))
}

/// Operations that change data, as the beginning of a word: MongoDB has insertMany and so on.
const WRITES: &[&str] = &[
    "insert",
    "update",
    "delete",
    "merge",
    "replace",
    "upsert",
    "truncate",
    "copy",
    "create",
    "drop",
    "put",
    "bulk",
    "index",
    "findandmodify",
    "batchwrite",
];

/// Whether an operation changes data.
pub(crate) fn is_write(span: &SpanAttributes<'_>) -> bool {
    let first = |text: &'_ str| text.split_ascii_whitespace().next().unwrap_or("").len();
    let words = [span.db_operation, span.db_summary, span.db_statement].map(|text| (first(text.trim_start()), text.trim_start()));
    let operation = words.iter().find(|(len, _)| *len > 0).map_or("", |(len, text)| &text[..*len]);
    WRITES.iter().any(|w| operation.get(..w.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(w)))
}

/// A topic and its broker.
#[derive(Debug, PartialEq)]
pub(crate) struct Topic {
    pub topic: NodeKey,
    pub broker: Option<NodeKey>,
    pub by_ip: bool,
}

/// The topic or queue that a span sends to or receives from, if it names one that lasts.
pub(crate) fn topic(span: &SpanAttributes<'_>, renames: &Renames) -> Option<Topic> {
    if span.messaging_destination.is_empty() || span.messaging_temporary {
        return None;
    }
    let name = span.messaging_system;
    let system = SYSTEMS.iter().find(|s| s.name == name);
    let scheme = system.map_or(name, |s| s.scheme);
    let default_port = system.map_or(0, |s| s.port);
    let first = span.messaging_servers.split(',').next().unwrap_or("").trim();
    let (host, port) = match span.server_address {
        "" => split_port(first.rsplit_once("://").map_or(first, |(_, rest)| rest)),
        host => (host.split(',').next().unwrap_or(host).trim(), span.server_port),
    };
    let (host, port) = if port == 0 { split_port(host) } else { (host, port) };
    let authority = authority(host, if port == 0 { default_port } else { port }, renames);
    if authority.is_empty() {
        let topic = NodeKey::new(kind::TOPIC, scheme, span.messaging_destination).ok()?;
        let broker = NodeKey::new(kind::BROKER, "", scheme).ok().filter(|_| !scheme.is_empty());
        return Some(Topic { topic, broker, by_ip: false });
    }
    let namespace = format!("{}://{authority}", if scheme.is_empty() { "messaging" } else { scheme });
    let topic = NodeKey::new(kind::TOPIC, &namespace, span.messaging_destination).ok()?;
    Some(Topic { topic, broker: NodeKey::new(kind::BROKER, "", &namespace).ok(), by_ip: is_ip(host) })
}

/// Who a call without an answering span went to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Peer {
    /// A service that the client calls by its name.
    Named { namespace: String, name: String },
    /// A host by its name in DNS.
    Host(String),
    /// An IP address, which names nobody.
    Ip,
    /// Nobody knows.
    Unknown,
}

/// The peer that a client span names.
pub(crate) fn peer(span: &SpanAttributes<'_>, renames: &Renames) -> Peer {
    if !span.peer_service.is_empty() {
        return match is_ip(span.peer_service) {
            true => Peer::Ip,
            false => Peer::Named { namespace: span.peer_namespace.into(), name: span.peer_service.into() },
        };
    }
    let (host, port) = match span.server_address {
        "" => of_url(span.url),
        host => (host, span.server_port),
    };
    if host.is_empty() {
        return Peer::Unknown;
    }
    let address = authority(host, port, renames);
    let host = split_port(&address).0;
    if host.is_empty() || is_ip(host) || host == "localhost" {
        return Peer::Ip;
    }
    match kubernetes(host) {
        Some((name, namespace)) => Peer::Named { namespace: namespace.into(), name: name.into() },
        None => Peer::Host(host.into()),
    }
}

/// Name and namespace of a service by its DNS name in a cluster of Kubernetes: `payment.shop.svc.cluster.local`, `payment.shop.svc`.
fn kubernetes(host: &str) -> Option<(&str, &str)> {
    let (name, rest) = host.split_once('.')?;
    let (namespace, rest) = rest.split_once('.')?;
    (rest == "svc" || rest.starts_with("svc.")).then_some((name, namespace))
}

/// `host:port` after renaming, without the port if it is 0.
fn authority(host: &str, port: u16, renames: &Renames) -> String {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if host.is_empty() {
        return host;
    }
    let address = match (port, host.contains(':') && !host.starts_with('[')) {
        (0, _) => host,
        (_, true) => format!("[{host}]:{port}"),
        (_, false) => format!("{host}:{port}"),
    };
    renames.apply(&address).into_owned()
}

fn split_port(address: &str) -> (&str, u16) {
    match address.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => port.parse().map_or((address, 0), |port| (host, port)),
        _ => (address, 0),
    }
}

fn of_url(url: &str) -> (&str, u16) {
    let Some((_, rest)) = url.split_once("://") else { return ("", 0) };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let address = rest[..end].rsplit_once('@').map_or(&rest[..end], |(_, address)| address);
    split_port(address)
}

fn is_ip(host: &str) -> bool {
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests;
