//! Search by a part of a name, and in what is said of jobs and datasets.

use serde_json::{Map, Value, json};

use super::{Kind, Order, Page, Reader, iso};
use crate::openlineage::FIELDS;
use crate::snapshot::NodeIdx;

/// Characters that are shown around what was found.
const AROUND: usize = 60;

/// What to look for.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// A part of the name; case does not matter.
    pub text: String,
    /// Only jobs, or only datasets.
    pub kind: Option<Kind>,
    /// Only in this namespace.
    pub namespace: Option<String>,
    /// Heard of last before this time, Unix milliseconds.
    pub before_ms: Option<i64>,
    /// Heard of last at this time or later.
    pub after_ms: Option<i64>,
    /// How the hits are sorted.
    pub order: Order,
    /// So many.
    pub limit: usize,
}

/// A node in which the text occurs.
struct Match {
    /// Whether it is not in the name, then name and namespace.
    rank: (bool, String, String),
    node: NodeIdx,
    /// By field, where.
    places: Map<String, Value>,
}

impl Reader {
    /// Jobs and datasets whose names contain a text.
    pub fn search(&self, wanted: &Found) -> Value {
        let needle = wanted.text.to_lowercase();
        let mut hits: Vec<(String, String, i64, NodeIdx, Kind)> = Vec::new();
        for (node, kind) in self.all(wanted.kind) {
            let (namespace, name) = self.name(node);
            let matches = self.names(node).any(|key| key.name().to_lowercase().contains(&needle));
            if !matches || wanted.namespace.as_ref().is_some_and(|ns| *ns != namespace) {
                continue;
            }
            let updated_ms = self.times(node).1;
            if wanted.before_ms.is_none_or(|t| updated_ms < t) && wanted.after_ms.is_none_or(|t| updated_ms >= t) {
                hits.push((name, namespace, updated_ms, node, kind));
            }
        }
        match wanted.order {
            Order::Name => hits.sort_unstable(),
            Order::Updated => hits.sort_unstable_by(|a, b| (b.2, &a.0, &a.1).cmp(&(a.2, &b.0, &b.1))),
        }
        let one = |(name, namespace, updated_ms, node, kind): &(String, String, i64, NodeIdx, Kind)| {
            json!({
                "type": if *kind == Kind::Job { "JOB" } else { "DATASET" },
                "name": name,
                "updatedAt": iso(*updated_ms),
                "namespace": namespace,
                "nodeId": self.node_id(*node),
            })
        };
        json!({"totalCount": hits.len(), "results": hits.iter().take(wanted.limit).map(one).collect::<Value>()})
    }

    /// Jobs or datasets in which a text occurs, with the places: names, descriptions, tags, fields, SQL. Names come before the others.
    pub fn search_in(&self, text: &str, kind: Kind, page: Page) -> Value {
        let needle = text.to_lowercase();
        let mut found: Vec<Match> = Vec::new();
        for (node, _) in self.all(Some(kind)) {
            let places = self.places(node, kind, &needle);
            if !places.is_empty() {
                let (namespace, name) = self.name(node);
                found.push(Match { rank: (!places.contains_key("name"), name, namespace), node, places });
            }
        }
        found.sort_unstable_by(|a, b| a.rank.cmp(&b.rank));
        let page = page.of(&found);
        let hits: Value = page.iter().map(|m| self.hit(m.node, kind, &m.rank.1, &m.rank.2)).collect();
        let highlights: Vec<&Map<String, Value>> = page.iter().map(|m| &m.places).collect();
        json!({"hits": hits, "highlights": highlights, "totalCount": found.len()})
    }

    /// By field, where the text occurs.
    fn places(&self, node: NodeIdx, kind: Kind, needle: &str) -> Map<String, Value> {
        let mut out = Map::new();
        let mut look = |field: &str, texts: &mut dyn Iterator<Item = &str>| {
            let shown: Vec<String> = texts.filter_map(|t| highlight(t, needle)).take(5).collect();
            if !shown.is_empty() {
                out.insert(field.into(), json!(shown));
            }
        };
        let (namespace, name) = self.name(node);
        look("name", &mut std::iter::once(name.as_str()));
        look("namespace", &mut std::iter::once(namespace.as_str()));
        let said = self.said(node);
        look("facets.documentation.description", &mut said.description().as_str().into_iter());
        look("facets.tags.tags", &mut said.tags().into_iter());
        if kind == Kind::Dataset {
            let fields = said.attribute(FIELDS).and_then(Value::as_array).into_iter().flatten();
            look("facets.schema.fields.name", &mut fields.filter_map(|f| f.get("name")?.as_str()));
        } else {
            let sql: Vec<_> = self.names(node).filter_map(|key| self.store.document(key, "facet/sql")).collect();
            look("facets.sql.query", &mut sql.iter().filter_map(|(_, f)| f.get("query")?.as_str()));
        }
        out
    }

    fn hit(&self, node: NodeIdx, kind: Kind, name: &str, namespace: &str) -> Value {
        let mut facets = self.facets(node);
        let (made_by, state);
        if kind == Kind::Job {
            let run = self.runs(node).next();
            made_by = run.as_ref().map(|r| r.id.clone());
            state = run.as_ref().map(|r| event_type(r.state));
            return json!({
                "run_id": made_by, "eventType": state, "name": name, "namespace": namespace, "type": self.job_type(node),
                "facets": facets, "runFacets": run.map_or_else(Map::new, |r| r.facets),
            });
        }
        facets.entry("schema").or_insert_with(|| json!({"fields": self.said(node).attribute(FIELDS)}));
        made_by = self.versions(node).first().and_then(|v| v.run.clone());
        state = made_by.as_deref().and_then(|id| self.run(id)).map(|r| event_type(r.state));
        json!({"run_id": made_by, "eventType": state, "name": name, "namespace": namespace, "facets": facets})
    }
}

/// OpenLineage's word for a state.
fn event_type(state: &str) -> &'static str {
    match state {
        "COMPLETED" => "COMPLETE",
        "FAILED" => "FAIL",
        "ABORTED" => "ABORT",
        _ => "RUNNING",
    }
}

/// The text around the first place where the needle occurs, which is marked.
fn highlight(text: &str, needle: &str) -> Option<String> {
    if needle.is_empty() {
        return None;
    }
    let chars: Vec<char> = text.chars().collect();
    let lower: Vec<String> = chars.iter().map(|c| c.to_lowercase().collect()).collect();
    let joined: String = lower.concat();
    let at = joined.find(needle)?;
    // Lower case may have other lengths than the text; counted in characters of the text.
    let mut bytes = 0;
    let mut ends = lower.iter().map(|l| {
        bytes += l.len();
        bytes
    });
    let start = ends.by_ref().position(|end| end > at)?;
    let length = 1 + if bytes_reached(&lower, start) >= at + needle.len() {
        0
    } else {
        ends.position(|end| end >= at + needle.len()).map_or(0, |n| n + 1)
    };
    let part = |from: usize, to: usize| chars[from.min(chars.len())..to.min(chars.len())].iter().collect::<String>();
    let end = start + length;
    Some(format!("{}<em>{}</em>{}", part(start.saturating_sub(AROUND), start), part(start, end), part(end, end + AROUND)))
}

/// Bytes of the lower case up to and with a character.
fn bytes_reached(lower: &[String], last: usize) -> usize {
    lower.iter().take(last + 1).map(String::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_marked() {
        assert_eq!(highlight("shop.public.ORDERS", "orders").as_deref(), Some("shop.public.<em>ORDERS</em>"));
        assert_eq!(highlight("İstanbul Überfall", "über").as_deref(), Some("İstanbul <em>Über</em>fall"));
        assert_eq!(highlight("a", "a").as_deref(), Some("<em>a</em>"));
        assert_eq!(highlight("abc", "c").as_deref(), Some("ab<em>c</em>"));
        assert_eq!((highlight("abc", "x"), highlight("abc", "")), (None, None));
        let long = format!("{}needle{}", "ü".repeat(500), "ö".repeat(500));
        assert_eq!(highlight(&long, "needle").map(|t| t.chars().count()), Some(2 * AROUND + 6 + 9));
    }
}
