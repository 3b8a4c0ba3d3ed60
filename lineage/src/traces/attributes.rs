//! The attributes that edges are made of, by the names of OpenTelemetry's semantic conventions, the newest and the older ones.

use super::wire::{Malformed, Value, read_attribute};

/// Longest value that is used; longer ones are cut, because a name that long is none.
pub(crate) const MAX_VALUE_BYTES: usize = 512;

/// Longest statement that tables are looked for in; the rest is not read.
pub(crate) const MAX_STATEMENT_BYTES: usize = 4096;

/// Who sends spans.
#[derive(Debug, Default)]
pub(crate) struct ResourceAttributes<'a> {
    pub name: &'a str,
    pub namespace: &'a str,
    pub environment: &'a str,
    pub criticality: &'a str,
    pub k8s_namespace: &'a str,
    pub k8s_workload: &'a str,
}

impl<'a> ResourceAttributes<'a> {
    /// Takes note of one attribute.
    pub fn read(&mut self, bytes: &'a [u8]) -> Result<(), Malformed> {
        let (key, Value::Text(text)) = read_attribute(bytes)? else { return Ok(()) };
        let text = cut(text, MAX_VALUE_BYTES);
        match key {
            b"service.name" => self.name = text,
            b"service.namespace" => self.namespace = text,
            b"service.criticality" => self.criticality = text,
            b"deployment.environment.name" => self.environment = text,
            b"deployment.environment" => or(&mut self.environment, text),
            b"k8s.namespace.name" => self.k8s_namespace = text,
            b"k8s.deployment.name" | b"k8s.statefulset.name" | b"k8s.daemonset.name" | b"k8s.cronjob.name" => self.k8s_workload = text,
            b"k8s.job.name" => or(&mut self.k8s_workload, text),
            _ => {}
        }
        Ok(())
    }

    /// The namespace of the service: its own, or that of Kubernetes.
    pub fn service_namespace(&self) -> &'a str {
        if self.namespace.is_empty() { self.k8s_namespace } else { self.namespace }
    }
}

/// What a span says; empty where it says nothing.
#[derive(Debug, Default)]
pub(crate) struct SpanAttributes<'a> {
    pub peer_service: &'a str,
    pub peer_namespace: &'a str,
    pub server_address: &'a str,
    pub server_port: u16,
    pub url: &'a str,
    pub http_method: &'a str,
    pub http_route: &'a str,
    pub rpc_system: &'a str,
    pub rpc_service: &'a str,
    pub rpc_method: &'a str,
    pub db_system: &'a str,
    pub db_namespace: &'a str,
    pub db_collection: &'a str,
    pub db_operation: &'a str,
    pub db_summary: &'a str,
    pub db_statement: &'a str,
    pub messaging_system: &'a str,
    pub messaging_destination: &'a str,
    pub messaging_operation: &'a str,
    pub messaging_servers: &'a str,
    /// The destination is one that is made for one conversation, such as a reply queue.
    pub messaging_temporary: bool,
    /// How many spans this one stands for, where an attribute tells.
    pub weight: f64,
    /// The destination is a template, which counts before a name.
    pub template: bool,
}

impl<'a> SpanAttributes<'a> {
    /// Takes note of one attribute.
    pub fn read(&mut self, bytes: &'a [u8]) -> Result<(), Malformed> {
        match read_attribute(bytes)? {
            (key, Value::Text(text)) if !text.is_empty() => self.text(key, text),
            (key, Value::Int(int)) => self.number(key, int as f64),
            (key, Value::Double(number)) => self.number(key, number),
            (b"messaging.destination.temporary" | b"messaging.destination.anonymous", Value::Bool(true)) => self.messaging_temporary = true,
            _ => {}
        }
        Ok(())
    }

    fn text(&mut self, key: &[u8], text: &'a str) {
        let long = text;
        let text = cut(text, MAX_VALUE_BYTES);
        match key {
            b"service.peer.name" => self.peer_service = text,
            b"service.peer.namespace" => self.peer_namespace = text,
            b"peer.service" => or(&mut self.peer_service, text),
            b"server.address" => self.server_address = text,
            b"net.peer.name" | b"net.sock.peer.name" => or(&mut self.server_address, text),
            b"server.port" | b"net.peer.port" => self.number(key, text.parse().unwrap_or(0.0)),
            b"url.full" | b"http.url" => self.url = text,
            b"http.request.method" | b"http.method" => self.http_method = text,
            b"http.route" => self.http_route = text,
            b"rpc.system.name" => self.rpc_system = text,
            b"rpc.system" => or(&mut self.rpc_system, text),
            b"rpc.service" => self.rpc_service = text,
            b"rpc.method" => self.rpc_method = text,
            b"db.system.name" => self.db_system = text,
            b"db.system" => or(&mut self.db_system, text),
            b"db.namespace" => self.db_namespace = text,
            b"db.name" => or(&mut self.db_namespace, text),
            b"db.collection.name" => self.db_collection = text,
            b"db.sql.table" | b"db.mongodb.collection" | b"db.cassandra.table" => or(&mut self.db_collection, text),
            b"db.operation.name" => self.db_operation = text,
            b"db.operation" => or(&mut self.db_operation, text),
            b"db.query.summary" => self.db_summary = text,
            b"db.query.text" => self.db_statement = cut(long, MAX_STATEMENT_BYTES),
            b"db.statement" => or(&mut self.db_statement, cut(long, MAX_STATEMENT_BYTES)),
            b"messaging.system" => self.messaging_system = text,
            b"messaging.destination.template" => (self.messaging_destination, self.template) = (text, true),
            b"messaging.destination.name" if !self.template => self.messaging_destination = text,
            b"messaging.destination" | b"messaging.kafka.topic" => or(&mut self.messaging_destination, text),
            b"messaging.operation.type" => self.messaging_operation = text,
            b"messaging.operation" => or(&mut self.messaging_operation, text),
            b"messaging.url" | b"messaging.kafka.bootstrap.servers" => self.messaging_servers = text,
            _ => {}
        }
    }

    fn number(&mut self, key: &[u8], number: f64) {
        match key {
            b"server.port" => self.server_port = number as u16,
            b"net.peer.port" if self.server_port == 0 => self.server_port = number as u16,
            b"sampling.probability" if number > 0.0 && number <= 1.0 => self.weight = 1.0 / number,
            b"SampleRate" | b"sample.rate" if number >= 1.0 => self.weight = number,
            _ => {}
        }
    }
}

/// An older name of an attribute counts where the newer one is not there.
fn or<'a>(value: &mut &'a str, older: &'a str) {
    if value.is_empty() {
        *value = older;
    }
}

/// The beginning of a text, not longer than so many bytes.
pub(crate) fn cut(text: &str, max_bytes: usize) -> &str {
    if text.len() <= max_bytes { text } else { &text[..text.floor_char_boundary(max_bytes)] }
}
