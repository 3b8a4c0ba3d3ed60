//! What a group of alerts touches: the blast radius of the nodes that its alerts are about, with the graph as of when they began and
//! the rates of now, sorted into what people ask for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use isobar_block::time;

use super::model::{Assessment, Cause, Impact, Note, Reason, Source, Step, Sum, Topology, Touched};
use crate::analysis::Unresolved;
use crate::analysis::blast::{Blast, BlastRequest, Live, PathStep};
use crate::analysis::cause::CauseRequest;
use crate::model::{Class, Flow, Relation, kind};
use crate::service::{Service, Tenant};
use crate::snapshot::{NodeIdx, NodeRef, Snapshot};
use crate::{Answer, AsOf, Budget, Error, NodeKey, Result, mesh};

/// Nodes of each list of an assessment.
pub const LIST: usize = 25;

/// Nodes that are ranked before they are put into lists.
pub const RANKED: usize = 500;

/// Causes that are listed.
pub const CAUSES: usize = 10;

/// How long live rates may take before an assessment does without them.
pub const LIVE_TIMEOUT: Duration = Duration::from_millis(400);

/// Work that the ranking of causes may cost, in visits of an edge: about a tenth of a second.
pub const CAUSE_WORK: u64 = 10_000_000;

/// What is the same for all assessments of one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Moment {
    live: Arc<Live>,
    causes: Vec<Cause>,
    notes: Vec<Note>,
}

/// What is to be assessed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Case {
    nodes: Vec<NodeKey>,
    severity: f32,
    late: bool,
    as_of: AsOf,
    label: String,
    firing: usize,
    notes: Vec<Note>,
}

impl Case {
    /// The case of an impact.
    pub fn of(impact: &Impact, now_ms: i64) -> Self {
        let about: Vec<_> = impact.firing().filter(|a| !a.matches.is_empty()).collect();
        let severity = about.iter().map(|a| a.severity).fold(0.0, f32::max);
        let late = !about.is_empty() && about.iter().all(|a| a.late);
        let is_later = about.iter().flat_map(|a| &a.matches).any(|m| m.topology == Topology::Later);
        let start_ms = about.iter().map(|a| a.starts_ms).max().unwrap_or(now_ms);
        let as_of = if is_later || start_ms >= now_ms { AsOf::Now } else { AsOf::At(start_ms) };
        let mut notes = Vec::new();
        if !late && about.iter().any(|a| a.late) {
            notes.push(note("late", "some alerts are about late data and others about failures; all are taken as failures"));
        }
        let without = impact.firing().filter(|a| a.matches.is_empty()).count();
        if without > 0 {
            notes.push(note("alerts", format!("{without} alerts of the group have no node; see /api/v1/alerts/unmatched")));
        }
        if impact.truncated_alerts > 0 {
            let reason = format!("Alertmanager has left out {} alerts of the group; raise its max_alerts", impact.truncated_alerts);
            notes.push(note("truncatedAlerts", reason));
        }
        if impact.left_out_alerts > 0 {
            notes.push(note("alerts", format!("{} alerts beyond the limit of a group were left out", impact.left_out_alerts)));
        }
        let label = impact.alerts.iter().find_map(|a| a.labels.get("alertname")).cloned().unwrap_or_default();
        Self { nodes: impact.failing_nodes(), severity, late, as_of, label, firing: impact.firing().count(), notes }
    }

    /// As of when the graph is asked.
    pub fn as_of(&self) -> AsOf {
        self.as_of
    }

    /// Whether the graph is that of the alerts' start, which later facts rarely change.
    pub fn is_of_start(&self) -> bool {
        self.as_of != AsOf::Now
    }

    /// Whether two cases touch the same.
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.nodes, self.severity, self.late, self.as_of) == (&other.nodes, other.severity, other.late, other.as_of)
            && self.notes == other.notes
    }
}

fn note(subject: impl Into<String>, reason: impl Into<String>) -> Note {
    Note { subject: subject.into(), reason: reason.into() }
}

fn notes(unresolved: &[Unresolved]) -> impl Iterator<Item = Note> {
    unresolved.iter().map(|u| note(&u.subject, &u.reason))
}

impl Moment {
    /// Looks at live rates, and ranks what may be behind everything that alerts.
    pub async fn look(service: &Service, tenant: &Tenant, alerting: Vec<NodeKey>) -> Result<Self> {
        let mut notes = Vec::new();
        let live = match tokio::time::timeout(LIVE_TIMEOUT, mesh::live(service, tenant, AsOf::Now)).await {
            Ok((live, unresolved)) => {
                notes.extend(self::notes(&unresolved));
                live
            }
            Err(_) => {
                notes.push(note("rates", format!("were not there within {} ms; losses are not known", LIVE_TIMEOUT.as_millis())));
                Live::default()
            }
        };
        let mut causes = Vec::new();
        if !alerting.is_empty() {
            let snapshot = tenant.store.snapshot(AsOf::Now).await?;
            let request = CauseRequest { alerting, limit: CAUSES, ..CauseRequest::default() };
            let ranked = tokio::task::spawn_blocking(move || snapshot.causes(&request, &mut Budget::new(CAUSE_WORK)));
            match ranked.await.expect("ranking does not panic") {
                Ok(answer) => {
                    notes.extend(self::notes(&answer.unresolved));
                    causes = answer.result.causes.into_iter().map(cause).collect();
                }
                // The nodes were there when their alerts began, and are not any more.
                Err(Error::Unknown { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(Self { live: Arc::new(live), causes, notes })
    }
}

fn cause(cause: crate::analysis::cause::Cause) -> Cause {
    Cause {
        id: cause.node.id,
        kind: cause.node.kind,
        owners: cause.node.owners,
        probability: cause.probability,
        alerting: cause.alerting,
        explains: cause.explains.len(),
        leaves_open: cause.leaves_open.into_iter().take(LIST).collect(),
    }
}

/// Assesses one case.
///
/// # Errors
/// [`Error::Block`] if the graph cannot be read.
pub(super) async fn assess(tenant: &Tenant, case: Case, moment: &Moment, reason: Reason) -> Result<Assessment> {
    let begun = Instant::now();
    let mut snapshot = tenant.store.snapshot(case.as_of).await?;
    if case.as_of != AsOf::Now && case.nodes.iter().all(|node| snapshot.find(node).is_none()) {
        snapshot = tenant.store.snapshot(AsOf::Now).await?;
    }
    let moment = moment.clone();
    let work = move || assess_in(&snapshot, &case, &moment, reason);
    let mut assessment = tokio::task::spawn_blocking(work).await.expect("assessing does not panic")?;
    assessment.took_ms = (begun.elapsed().as_secs_f64() * 1e6).round() / 1e3;
    Ok(assessment)
}

fn assess_in(snapshot: &Snapshot, case: &Case, moment: &Moment, reason: Reason) -> Result<Assessment> {
    let mut assessment = Assessment {
        as_of_ms: snapshot.at_ms(),
        assessed_ms: time::now_ms(),
        reason,
        graph_version: snapshot.version(),
        causes: moment.causes.clone(),
        sources: snapshot.sources().iter().map(|s| Source { source: s.source.clone(), heard_ms: s.heard_ms }).collect(),
        unresolved: case.notes.iter().chain(&moment.notes).cloned().collect(),
        ..Assessment::default()
    };
    // A source may have very many scopes; its name is said once.
    assessment.sources.dedup_by(|a, b| a.source == b.source);
    if !case.nodes.is_empty() {
        let mut request = BlastRequest::new(case.nodes.clone());
        (request.severity, request.late) = (case.severity.clamp(f32::MIN_POSITIVE, 1.0), case.late);
        (request.limit, request.limit_per_kind) = (RANKED, LIST);
        match snapshot.blast(&request, &moment.live, &mut Budget::default()) {
            Ok(answer) => fill(&mut assessment, snapshot, case, moment, answer),
            Err(Error::Unknown { node, .. }) => assessment.unresolved.push(note(node, "is not in the graph any more")),
            Err(other) => return Err(other),
        }
    }
    assessment.complete = assessment.unresolved.is_empty();
    assessment.summary = summary(&assessment, case);
    Ok(assessment)
}

fn fill(assessment: &mut Assessment, snapshot: &Snapshot, case: &Case, moment: &Moment, answer: Answer<Blast>) {
    let blast = answer.result;
    assessment.unresolved.extend(notes(&answer.unresolved));
    (assessment.reachable, assessment.touched, assessment.deviation) = (blast.reachable, blast.touched, blast.deviation);
    let rates = rates_of(snapshot, &blast.failed, &moment.live);
    assessment.failed = blast.failed.iter().map(|node| failed(node, case, rates.get(&node.id).copied())).collect();
    let impacts = blast.impacts.into_iter().map(touched);
    let mut lost: Option<f64> = None;
    let all: Vec<Touched> = assessment.failed.iter().cloned().chain(impacts).collect();
    for node in &all {
        if let (Some(lost_per_s), true) = (node.lost_per_s, is_entry(snapshot, &node.id)) {
            lost = Some(lost.unwrap_or(0.0) + lost_per_s);
        }
    }
    assessment.lost_per_s = lost;
    assessment.owners = blast.by_owner.iter().take(LIST).map(sum).collect();
    for node in &assessment.failed {
        for owner in &node.owners {
            add_owner(&mut assessment.owners, &owner.name, node);
        }
    }
    assessment.kinds = blast.by_kind.iter().map(sum).collect();
    for node in all {
        let types = snapshot.types();
        let is = |kind: &str| types.is_a(&node.kind, kind);
        let list = if is(kind::INTERFACE) {
            &mut assessment.interfaces
        } else if is(kind::APPLICATION) {
            &mut assessment.applications
        } else if is(kind::PROJECT) {
            &mut assessment.projects
        } else if is(kind::SERVICE) {
            &mut assessment.services
        } else if is(kind::METRIC) {
            &mut assessment.metrics
        } else if is(kind::DATASET) {
            &mut assessment.datasets
        } else if is(kind::COLUMN) {
            &mut assessment.columns
        } else if is(kind::TOPIC) {
            &mut assessment.topics
        } else {
            &mut assessment.others
        };
        // Failed nodes come first; the rest comes ranked.
        if list.len() < LIST {
            list.push(node);
        }
    }
}

/// Where requests come in: it was said to be an entry, or nobody in the graph calls it.
fn is_entry(snapshot: &Snapshot, key: &NodeKey) -> bool {
    let Some(node) = snapshot.find(key) else { return false };
    let graph = &snapshot.graph;
    let calls = |edge: u32| {
        let edge = &graph.edges[edge as usize];
        edge.flow == Flow::Call && edge.relation == Relation::Dependency && edge.class != Class::Ordering
    };
    graph.entry[node.0 as usize] || !graph.reached(node.0).iter().any(|back| calls(back.edge))
}

fn rates_of(snapshot: &Snapshot, failed: &[NodeRef], live: &Live) -> HashMap<NodeKey, f64> {
    let wanted: HashMap<NodeIdx, &NodeKey> = failed.iter().filter_map(|n| Some((snapshot.find(&n.id)?, &n.id))).collect();
    let mut rates = HashMap::new();
    for (key, rate) in live.rates.iter().filter(|(_, rate)| rate.is_finite() && **rate >= 0.0) {
        if let Some(id) = snapshot.find(key).and_then(|node| wanted.get(&node)) {
            *rates.entry((*id).clone()).or_insert(0.0) += *rate;
        }
    }
    rates
}

fn failed(node: &NodeRef, case: &Case, rate: Option<f64>) -> Touched {
    let probability = f64::from(case.severity);
    let (errors, staleness) = if case.late { (0.0, probability) } else { (probability, 0.0) };
    Touched {
        id: node.id.clone(),
        kind: node.kind.clone(),
        name: node.name.clone(),
        owners: node.owners.clone(),
        criticality: node.criticality,
        probability,
        errors,
        staleness,
        starvation: 0.0,
        hops: 0,
        rate,
        lost_per_s: rate.map(|r| r * errors),
        late_after_ms: case.late.then_some(0),
        score: 0.0,
        because: "the alert is about it".into(),
        path: Vec::new(),
    }
}

fn touched(impact: crate::analysis::blast::Impact) -> Touched {
    let because = match impact.path.last() {
        None => "it gets its requests from what fails".to_owned(),
        Some(_) => impact.path.iter().rev().map(step_in_words).collect::<Vec<_>>().join(", "),
    };
    let node = impact.node;
    Touched {
        id: node.id,
        kind: node.kind,
        name: node.name,
        owners: node.owners,
        criticality: node.criticality,
        probability: impact.probability,
        errors: impact.errors,
        staleness: impact.staleness,
        starvation: impact.starvation,
        hops: impact.hops,
        rate: impact.rate,
        lost_per_s: impact.lost_per_s,
        late_after_ms: impact.late_after_ms,
        score: impact.score,
        because,
        path: impact.path.into_iter().map(step).collect(),
    }
}

fn step_in_words(step: &PathStep) -> String {
    let verb = match (step.relation, step.flow) {
        (Relation::Composition, _) => "is composed of",
        (_, Flow::Data) => "gets data from",
        (_, Flow::Call) => "needs",
    };
    let class = match step.class {
        Class::Hard => "hard",
        Class::Soft => "soft",
        Class::Ordering => "ordering",
    };
    let percent = f64::from(step.probability) * 100.0;
    let (dependent, provider) = (&step.dependent, &step.provider);
    if dependent.name() == provider.name() {
        // As an interface that is called like its service.
        return format!("{} {} {verb} {} ({class}, {percent:.0} %)", dependent.kind(), dependent.name(), provider.kind());
    }
    format!("{} {verb} {} ({class}, {percent:.0} %)", dependent.name(), provider.name())
}

fn step(step: PathStep) -> Step {
    Step {
        provider: step.provider,
        dependent: step.dependent,
        relation: step.relation,
        class: step.class,
        flow: step.flow,
        probability: step.probability,
        evidence: step.evidence.iter().collect(),
    }
}

fn sum(sum: &crate::analysis::blast::Sum) -> Sum {
    Sum { name: sum.name.clone(), nodes: sum.nodes, probability: sum.probability, lost_per_s: sum.lost_per_s, score: sum.score }
}

/// Whoever owns a failed node is touched first of all.
fn add_owner(owners: &mut Vec<Sum>, name: &str, node: &Touched) {
    let at = match owners.iter().position(|o| o.name == name) {
        Some(at) => at,
        None => {
            owners.push(Sum { name: name.to_owned(), nodes: 0, probability: 0.0, lost_per_s: 0.0, score: 0.0 });
            owners.len() - 1
        }
    };
    let owner = &mut owners[at];
    owner.nodes += 1;
    owner.probability = owner.probability.max(node.probability);
    owner.lost_per_s += node.lost_per_s.unwrap_or(0.0);
}

fn summary(assessment: &Assessment, case: &Case) -> String {
    let names: Vec<_> = assessment.failed.iter().map(|t| t.name.as_str()).collect();
    let what = match names.as_slice() {
        [] => return format!("{}: no node that the alerts are about is in the graph", case.label),
        [one] => format!("{one} {}", if case.late { "is late" } else { "fails" }),
        [one, rest @ ..] => format!("{one} and {} more {}", rest.len(), if case.late { "are late" } else { "fail" }),
    };
    let mut text = if case.label.is_empty() { what } else { format!("{}: {what}", case.label) };
    let of_kind = |name: &str| assessment.kinds.iter().find(|k| k.name == name).map_or(0, |k| k.nodes);
    let counts: Vec<String> = [
        (kind::INTERFACE, "interface", "interfaces"),
        (kind::APPLICATION, "application", "applications"),
        (kind::PROJECT, "project", "projects"),
        (kind::SERVICE, "service", "services"),
        (kind::METRIC, "metric", "metrics"),
        (kind::DATASET, "dataset", "datasets"),
        (kind::TOPIC, "topic", "topics"),
    ]
    .into_iter()
    .filter_map(|(kind, one, many)| match of_kind(kind) {
        0 => None,
        n => Some(format!("{n} {}", if n == 1 { one } else { many })),
    })
    .collect();
    if assessment.touched == 0 {
        text.push_str("; nothing else is touched");
    } else if counts.is_empty() {
        text.push_str(&format!("; {} nodes touched", assessment.touched));
    } else {
        text.push_str(&format!("; touches {}", counts.join(", ")));
    }
    if let Some(lost) = assessment.lost_per_s.filter(|l| *l > 0.0) {
        text.push_str(&format!("; {lost:.1} requests/s lost"));
    }
    let owners: Vec<&str> = assessment.owners.iter().take(5).map(|o| o.name.as_str()).collect();
    if !owners.is_empty() {
        text.push_str(&format!("; owners: {}", owners.join(", ")));
    }
    if !assessment.complete {
        text.push_str("; incomplete");
    }
    if case.firing > 1 {
        text.push_str(&format!(" ({} alerts)", case.firing));
    }
    text
}
