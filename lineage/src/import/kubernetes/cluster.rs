//! All objects of an import: found by name, by owner and by label, whichever file they stand in.

use hashbrown::{HashMap, HashSet};
use serde_json::{Map, Value};

use super::object::Object;
use super::{items, network, text};
use crate::Result;
use crate::model::{Group, NodeBody, NodeKey, Owner, kind};

/// Owners of owners are followed so far: a pod, a ReplicaSet, a Deployment, a Knative Revision.
const MAX_OWNERS: usize = 6;

/// Controllers that somebody writes; what owns them is an operator and runs nothing itself.
const WRITTEN: &[&str] = &["Deployment", "StatefulSet", "DaemonSet", "CronJob", "Rollout", "knative/Revision"];

/// Objects that make pods.
const CONTROLLERS: &[&str] =
    &["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job", "CronJob", "Rollout", "knative/Revision"];

/// A workload with the labels of its pods.
pub(super) struct Workload<'a> {
    pub object: usize,
    pub labels: Option<&'a Map<String, Value>>,
}

/// See the module.
pub(super) struct Cluster<'a> {
    pub objects: Vec<Object<'a>>,
    by_name: HashMap<(String, String, String), usize>,
    /// By namespace.
    workloads: HashMap<&'a str, Vec<Workload<'a>>>,
    budgets: HashMap<&'a str, Vec<usize>>,
    /// Workloads that a Service selects, as indices of objects.
    selected: HashMap<usize, Vec<usize>>,
    /// The Service that is a workload's own.
    own_service: HashMap<usize, usize>,
    /// Namespaces and names of Services that Knative or Kubernetes answers for.
    services: HashSet<(&'a str, &'a str)>,
    /// Ready endpoints by namespace and name of their Service.
    endpoints: HashMap<(&'a str, &'a str), u32>,
    /// Namespaces and names of Services that have slices of endpoints.
    sliced: HashSet<(&'a str, &'a str)>,
    /// Who owns a namespace.
    owners: HashMap<&'a str, Vec<Owner>>,
    /// Fewest pods that an autoscaler leaves, by namespace and name of the workload.
    autoscaled: HashMap<(&'a str, &'a str), u32>,
}

impl<'a> Cluster<'a> {
    /// Finds out how these objects belong together.
    pub fn new(objects: Vec<Object<'a>>) -> Self {
        let mut cluster = Self {
            objects,
            by_name: HashMap::new(),
            workloads: HashMap::new(),
            budgets: HashMap::new(),
            selected: HashMap::new(),
            own_service: HashMap::new(),
            services: HashSet::new(),
            endpoints: HashMap::new(),
            sliced: HashSet::new(),
            owners: HashMap::new(),
            autoscaled: HashMap::new(),
        };
        for (i, object) in cluster.objects.iter().enumerate() {
            cluster.by_name.entry((object.kind.clone(), object.namespace.into(), object.name.into())).or_insert(i);
            match object.kind.as_str() {
                "PodDisruptionBudget" => cluster.budgets.entry(object.namespace).or_default().push(i),
                "Service" | "knative/Service" | "knative/Route" => drop(cluster.services.insert((object.namespace, object.name))),
                "EndpointSlice" | "Endpoints" => {
                    let service = (object.namespace, network::service_name(object));
                    *cluster.endpoints.entry(service).or_default() += network::ready(object).count() as u32;
                    if object.kind == "EndpointSlice" {
                        cluster.sliced.insert(service);
                    }
                }
                "Namespace" => drop(cluster.owners.insert(object.name, object.body().owners)),
                "HorizontalPodAutoscaler" => {
                    let least = object.spec()["minReplicas"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
                    if let Some(name) = text(&object.spec()["scaleTargetRef"], "name") {
                        cluster.autoscaled.insert((object.namespace, name), least);
                    }
                }
                _ => {}
            }
        }
        for i in 0..cluster.objects.len() {
            let object = &cluster.objects[i];
            if CONTROLLERS.contains(&object.kind.as_str()) && cluster.is_own_workload(object) {
                let labels = template(object)["metadata"]["labels"].as_object();
                cluster.workloads.entry(object.namespace).or_default().push(Workload { object: i, labels });
            }
        }
        cluster.select();
        cluster
    }

    fn select(&mut self) {
        let mut selecting: HashMap<usize, Vec<usize>> = HashMap::new();
        for (i, object) in self.objects.iter().enumerate().filter(|(_, o)| o.kind == "Service" && !o.is_of_knative()) {
            let Some(selector) = object.spec()["selector"].as_object().filter(|s| !s.is_empty()) else { continue };
            for workload in self.workloads.get(object.namespace).into_iter().flatten() {
                if workload.labels.is_some_and(|labels| matches(selector, labels)) {
                    self.selected.entry(i).or_default().push(workload.object);
                    selecting.entry(workload.object).or_default().push(i);
                }
            }
        }
        for (workload, services) in selecting {
            let own = |i: &&usize| self.selected[*i].len() == 1;
            let candidates: Vec<usize> = services.iter().filter(own).copied().collect();
            let named = candidates.iter().find(|i| self.objects[**i].name == self.objects[workload].name);
            let only = if candidates.len() == 1 { candidates.first() } else { None };
            if let Some(service) = named.or(only) {
                self.own_service.insert(workload, *service);
            }
        }
    }

    pub fn find(&self, kind: &str, namespace: &str, name: &str) -> Option<&Object<'a>> {
        self.by_name.get(&(kind.into(), namespace.into(), name.into())).map(|i| &self.objects[*i])
    }

    /// What an object's labels say about it; it belongs to whoever owns its namespace if they do not say to whom.
    pub fn body(&self, object: &Object) -> NodeBody {
        let mut body = object.body();
        if body.owners.is_empty() {
            body.owners = self.owners.get(object.namespace).cloned().unwrap_or_default();
        }
        body
    }

    /// Whether a Service of this name is among the objects.
    pub fn has_service(&self, namespace: &str, name: &str) -> bool {
        self.services.contains(&(namespace, name))
    }

    /// Whether there are slices of a Service's endpoints, which say more than the older kind of object.
    pub fn has_slices(&self, namespace: &str, service: &str) -> bool {
        self.sliced.contains(&(namespace, service))
    }

    /// Workloads that a Service selects.
    pub fn selected(&self, service: &Object) -> Vec<&Object<'a>> {
        let index = self.index(service);
        self.selected.get(&index).into_iter().flatten().map(|i| &self.objects[*i]).collect()
    }

    /// Whether the Service and the workload are one node.
    pub fn is_own_service(&self, workload: &Object, service: &Object) -> bool {
        self.own_service.get(&self.index(workload)) == Some(&self.index(service))
    }

    /// The Service that is the workload's own.
    pub fn own_service(&self, workload: &Object) -> Option<&Object<'a>> {
        self.own_service.get(&self.index(workload)).map(|i| &self.objects[*i])
    }

    fn index(&self, object: &Object) -> usize {
        let key = (object.kind.clone(), object.namespace.to_owned(), object.name.to_owned());
        self.by_name.get(&key).copied().unwrap_or(usize::MAX)
    }

    /// The kind and the name of the workload that an object is or belongs to; `None` for a pod that nothing controls.
    pub fn workload_of(&self, object: &Object<'a>) -> Option<(String, &'a str)> {
        if let Some(revision) = object.label("serving.knative.dev/revision").filter(|_| object.kind != "knative/Revision") {
            return Some(("knative/Revision".into(), revision));
        }
        let mut at = (object.kind.clone(), object.name);
        let mut from = Some(object);
        for _ in 0..MAX_OWNERS {
            let Some(owner) = from.and_then(Object::controller) else { break };
            if owner.0 == "Node" || (WRITTEN.contains(&at.0.as_str()) && owner.0 != "knative/Revision") {
                break;
            }
            from = self.find(&owner.0, object.namespace, owner.1);
            // A dump of pods alone does not hold their ReplicaSets, but the names tell of which Deployments these are.
            let of_deployment = || owner.1.strip_suffix(object.label("pod-template-hash")?)?.strip_suffix('-');
            at = match of_deployment() {
                Some(deployment) if owner.0 == "ReplicaSet" && from.is_none() => ("Deployment".into(), deployment),
                _ => owner,
            };
        }
        (at.0 != "Pod").then_some(at)
    }

    /// Whether a controller is a workload itself and not a part of another one.
    pub fn is_own_workload(&self, object: &Object<'a>) -> bool {
        self.workload_of(object).is_some_and(|(kind, name)| kind == object.kind && name == object.name)
    }

    /// The node of the workload that an object is or belongs to.
    pub fn workload_key(&self, object: &Object<'a>) -> Result<Option<NodeKey>> {
        self.workload_of(object).map(|(_, name)| NodeKey::new(kind::WORKLOAD, object.namespace, name)).transpose()
    }

    /// How many of its pods a workload needs, and how many it should have.
    pub fn pods_group(&self, pod: &Object<'a>) -> Group {
        let workload = self.workload_of(pod).and_then(|(kind, name)| self.find(&kind, pod.namespace, name));
        let n = workload.and_then(|w| self.replicas(w));
        let scaled_to_zero = workload.is_some_and(|w| n == Some(0) || (w.kind == "knative/Revision" && super::knative::min_scale(w) == 0));
        let least = if scaled_to_zero { 0 } else { 1 };
        let k = self.budget(pod.namespace, pod.labels(), n).unwrap_or(least);
        Group { id: "pods".into(), k: n.map_or(k, |n| k.min(n.max(1))), n: n.filter(|n| *n > 0) }
    }

    /// Ready endpoints of a Service, and how many it needs.
    pub fn endpoints_group(&self, namespace: &str, service: &str) -> Group {
        let n = self.endpoints.get(&(namespace, service)).copied().unwrap_or(0);
        let selector = self.find("Service", namespace, service).and_then(|s| s.spec()["selector"].as_object());
        let k = self.budget(namespace, selector, Some(n)).unwrap_or(1);
        Group { id: "endpoints".into(), k: k.min(n.max(1)), n: None }
    }

    fn replicas(&self, workload: &Object<'a>) -> Option<u32> {
        let number = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        match workload.kind.as_str() {
            "DaemonSet" => number(&workload.status()["desiredNumberScheduled"]),
            "CronJob" => None,
            "Job" => number(&workload.spec()["parallelism"]).or(Some(1)),
            "knative/Revision" => {
                let deployment = self.find("Deployment", workload.namespace, &format!("{}-deployment", workload.name));
                deployment.and_then(|d| number(&d.spec()["replicas"]))
            }
            _ => {
                let autoscaled = self.autoscaled.get(&(workload.namespace, workload.name)).copied();
                number(&workload.spec()["replicas"]).or(autoscaled).or(Some(1))
            }
        }
    }

    /// How many pods of these labels a disruption budget wants to keep of `n`.
    fn budget(&self, namespace: &str, labels: Option<&Map<String, Value>>, n: Option<u32>) -> Option<u32> {
        let labels = labels?;
        let of = |i: &&usize| selects(&self.objects[**i].spec()["selector"], labels);
        let spec = self.budgets.get(namespace)?.iter().find(of).map(|i| self.objects[*i].spec())?;
        let k = match (amount(&spec["minAvailable"], n), amount(&spec["maxUnavailable"], n)) {
            (Some(min), _) => min,
            (None, Some(max)) => n?.saturating_sub(max),
            (None, None) => return None,
        };
        // A budget may allow that all are away for a moment; that does not mean that none is needed.
        Some(k.max(1))
    }
}

/// The pod template of a controller; of a Revision the Revision itself, which has the shape of one.
pub(super) fn template<'a>(object: &Object<'a>) -> &'a Value {
    match object.kind.as_str() {
        "CronJob" => &object.spec()["jobTemplate"]["spec"]["template"],
        "knative/Revision" | "Pod" => object.value,
        _ => &object.spec()["template"],
    }
}

/// A number, or a percentage of `n`, which Kubernetes rounds up.
fn amount(value: &Value, n: Option<u32>) -> Option<u32> {
    if let Some(number) = value.as_u64() {
        return u32::try_from(number).ok();
    }
    let percent: f64 = value.as_str()?.strip_suffix('%')?.trim().parse().ok()?;
    Some((f64::from(n?) * percent / 100.0).ceil() as u32)
}

/// Whether all of these labels are there.
fn matches(selector: &Map<String, Value>, labels: &Map<String, Value>) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// Whether a selector with labels and expressions selects these labels. One that says nothing selects everything.
fn selects(selector: &Value, labels: &Map<String, Value>) -> bool {
    selector["matchLabels"].as_object().is_none_or(|wanted| matches(wanted, labels))
        && items(selector, "matchExpressions").all(|e| {
            let value = text(e, "key").and_then(|key| labels.get(key));
            let listed = || value.is_some_and(|v| items(e, "values").any(|x| x == v));
            match e["operator"].as_str() {
                Some("In") => listed(),
                Some("NotIn") => !listed(),
                Some("Exists") => value.is_some(),
                Some("DoesNotExist") => value.is_none(),
                _ => false,
            }
        })
}
