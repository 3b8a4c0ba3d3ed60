//! Queries that tell how far nodes are used to capacity, among them the ones that are always there.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::mesh::pattern::NodePattern;
use crate::{Error, Result};

/// A resource of some nodes: a utilisation, or a throughput and its limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadQuery {
    /// Its name.
    pub name: String,
    /// What is used, for people.
    pub resource: String,
    /// Names of the node, the best first; the first one that is in the graph counts.
    pub node: Vec<NodePattern>,
    /// PromQL of the fraction of the capacity that is used, 0 to 1. Of several series of a node the highest counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilisation: Option<String>,
    /// PromQL of what is used, in any unit. Several series of a node are added up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<String>,
    /// PromQL of what could be used, in the same unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
}

impl LoadQuery {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the field.
    pub fn check(&self) -> Result<()> {
        for (field, value) in [("name", &self.name), ("resource", &self.resource)] {
            if value.is_empty() || value.len() > 64 {
                return Err(Error::invalid(field, format!("has {} bytes; give 1 to 64", value.len())));
            }
        }
        if self.node.is_empty() {
            return Err(Error::invalid("node", "is empty; say how the node is named"));
        }
        for (i, pattern) in self.node.iter().enumerate() {
            pattern.check().map_err(|e| e.within(&format!("node[{i}]")))?;
        }
        match (&self.utilisation, &self.throughput, &self.limit) {
            (Some(_), None, None) | (None, Some(_), Some(_)) => Ok(()),
            _ => Err(Error::invalid("utilisation", "must stand alone, or throughput and limit together")),
        }
    }
}

/// The queries that are always there, unless the settings leave them out.
///
/// # Panics
/// Never: that they are queries is tested.
pub fn built_in() -> Vec<LoadQuery> {
    let all = [
        container_cpu(),
        container_memory(),
        host_cpu(),
        host_disk(),
        process_cpu(),
        files(),
        threads(),
        connections(),
        replicas(),
        queue(),
    ];
    all.into_iter().map(|query| serde_json::from_value(query).expect("a test reads every query")).collect()
}

/// A pod is its workload's, and the workload a service's of the same name where no manifest says better.
fn of_pod() -> Value {
    json!([
        {"kind": "workload", "namespace": "{namespace}", "name": "{pod|workload}"},
        {"kind": "service", "namespace": "{namespace}", "name": "{pod|workload}"},
        {"kind": "service", "name": "{pod|workload}"},
    ])
}

fn of_process() -> Value {
    json!([
        {"kind": "workload", "namespace": "{namespace}", "name": "{pod|workload}"},
        {"kind": "service", "namespace": "{namespace}", "name": "{service}"},
        {"kind": "service", "namespace": "{namespace}", "name": "{job}"},
        {"kind": "service", "name": "{service_name}"},
        {"kind": "service", "name": "{service}"},
        {"kind": "service", "name": "{job}"},
        {"kind": "database", "name": "{job}"},
    ])
}

fn of_host() -> Value {
    json!([
        {"kind": "host", "name": "{node}"},
        {"kind": "host", "name": "{nodename}"},
        {"kind": "host", "name": "{instance|host}"},
        {"kind": "host", "name": "{instance}"},
    ])
}

const PROCESS: &str = "namespace, pod, service, service_name, job";

fn container_cpu() -> Value {
    json!({
        "name": "container-cpu", "resource": "cpu", "node": of_pod(),
        "utilisation": "sum by (namespace, pod) (rate(container_cpu_usage_seconds_total{container!=\"\",container!=\"POD\"}[5m])) \
            / (sum by (namespace, pod) (kube_pod_container_resource_limits{resource=\"cpu\"}) > 0)",
    })
}

fn container_memory() -> Value {
    json!({
        "name": "container-memory", "resource": "memory", "node": of_pod(),
        "utilisation": "sum by (namespace, pod) (container_memory_working_set_bytes{container!=\"\",container!=\"POD\"}) \
            / (sum by (namespace, pod) (kube_pod_container_resource_limits{resource=\"memory\"}) > 0)",
    })
}

fn host_cpu() -> Value {
    json!({
        "name": "host-cpu", "resource": "cpu", "node": of_host(),
        "utilisation": "1 - avg by (instance, node, nodename) (rate(node_cpu_seconds_total{mode=\"idle\"}[5m]))",
    })
}

fn host_disk() -> Value {
    json!({
        "name": "host-disk", "resource": "disk time", "node": of_host(),
        "utilisation": "max by (instance, node, nodename) (rate(node_disk_io_time_seconds_total[5m]))",
    })
}

/// Only where the limit is known: how many threads a process may use stands in no metric of all languages but in that of Go.
fn process_cpu() -> Value {
    json!({
        "name": "process-cpu", "resource": "cpu", "node": of_process(),
        "utilisation": format!("max by ({PROCESS}) (rate(process_cpu_seconds_total[5m]) / (go_sched_gomaxprocs_threads > 0))"),
    })
}

fn files() -> Value {
    json!({
        "name": "process-files", "resource": "file descriptors", "node": of_process(),
        "utilisation": format!("max by ({PROCESS}) (process_open_fds / (process_max_fds > 0))"),
    })
}

fn threads() -> Value {
    json!({
        "name": "tomcat-threads", "resource": "worker threads", "node": of_process(),
        "utilisation": format!("max by ({PROCESS}) (tomcat_threads_busy_threads / (tomcat_threads_config_max_threads > 0))"),
    })
}

fn connections() -> Value {
    json!({
        "name": "hikaricp-connections", "resource": "database connections", "node": of_process(),
        "utilisation": format!("max by ({PROCESS}) (hikaricp_connections_active / (hikaricp_connections_max > 0))"),
    })
}

fn replicas() -> Value {
    json!({
        "name": "autoscaler-replicas", "resource": "replicas",
        "node": [
            {"kind": "workload", "namespace": "{namespace}", "name": "{horizontalpodautoscaler}"},
            {"kind": "service", "namespace": "{namespace}", "name": "{horizontalpodautoscaler}"},
        ],
        "utilisation": "max by (namespace, horizontalpodautoscaler) (kube_horizontalpodautoscaler_status_current_replicas \
            / (kube_horizontalpodautoscaler_spec_max_replicas > 0))",
    })
}

/// Queues of remote write, of the OpenTelemetry Collector: what has a capacity beside its size.
fn queue() -> Value {
    json!({
        "name": "exporter-queue", "resource": "queue", "node": of_process(),
        "utilisation": format!("max by ({PROCESS}) (otelcol_exporter_queue_size / (otelcol_exporter_queue_capacity > 0))"),
    })
}
