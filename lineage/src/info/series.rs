//! Which series a graph has, and their labels. Plain functions.

use hashbrown::HashSet;
use isobar_block::Labels;
use isobar_block::labels::METRIC_NAME;

use crate::model::{NodeKey, kind};
use crate::snapshot::{EdgeIdx, NodeIdx, Snapshot};
use crate::state::recent::RecentIds;
use crate::table::word;

/// Longest value of a label; longer ones are cut and end with `~` and a hash of the whole.
pub const MAX_VALUE_BYTES: usize = 256;

/// Nodes have at most one of so many series if there are more edges than fit.
const NODES_PART: usize = 4;

/// The series of a graph.
#[derive(Debug, Default)]
pub(super) struct Series {
    /// Their labels.
    pub labels: Vec<Labels>,
    /// Edges and nodes that have none.
    pub left_out: usize,
}

/// The series of a graph, at most `limit`: whole ranks of importance first, then the ones that came into the graph first.
pub(super) fn of(snapshot: &Snapshot, limit: usize) -> Series {
    let nodes = snapshot.node_count();
    let room = limit - nodes.min(limit / NODES_PART);
    let edges = important(snapshot.edges(), room, |e| {
        let (from, to) = snapshot.ends(*e);
        rank(snapshot.kind(from)).max(rank(snapshot.kind(to)))
    });
    let left_out = snapshot.edge_count() - edges.len();
    let chosen = important(snapshot.nodes(), limit - edges.len(), |n| rank(snapshot.kind(*n)));
    let left_out = left_out + nodes - chosen.len();
    let mut seen = HashSet::new();
    let all = edges.into_iter().map(|e| edge(snapshot, e)).chain(chosen.into_iter().map(|n| node(snapshot, n)));
    let labels = all.filter(|l| seen.insert(l.clone())).collect();
    Series { labels, left_out }
}

/// How dispensable things of a kind are: there are many columns, and few people who ask for them by metric.
fn rank(kind: &str) -> u8 {
    match kind {
        kind::COLUMN => 2,
        kind::INSTANCE | kind::VOLUME | kind::CONFIG => 1,
        _ => 0,
    }
}

/// The `limit` ones of least rank, in order.
fn important<T>(all: impl Iterator<Item = T>, limit: usize, rank: impl Fn(&T) -> u8) -> Vec<T> {
    let mut ranks: [Vec<T>; 3] = Default::default();
    for item in all {
        let rank = usize::from(rank(&item)).min(2);
        if ranks[rank].len() < limit {
            ranks[rank].push(item);
        }
    }
    ranks.into_iter().flatten().take(limit).collect()
}

fn edge(snapshot: &Snapshot, edge: EdgeIdx) -> Labels {
    let (from, to) = snapshot.ends(edge);
    let short = &snapshot.graph.edges[edge.0 as usize];
    let mut pairs = vec![
        (METRIC_NAME, "isobar_lineage_edge".to_owned()),
        ("relation", word(short.relation)),
        ("class", word(short.class)),
        ("flow", word(short.flow)),
    ];
    pairs.extend(end(snapshot.key(from), ["from", "from_kind", "from_namespace", "from_name"]));
    pairs.extend(end(snapshot.key(to), ["to", "to_kind", "to_namespace", "to_name"]));
    Labels::from_pairs(pairs).expect("names are not empty and occur once")
}

fn node(snapshot: &Snapshot, node: NodeIdx) -> Labels {
    let owners: Vec<&str> = snapshot.owners_of(node).into_iter().map(|o| o.name.as_str()).collect();
    let mut pairs = vec![
        (METRIC_NAME, "isobar_lineage_node_info".to_owned()),
        ("owner", cut(&owners.join(","))),
        ("criticality", word(snapshot.criticality(node))),
    ];
    pairs.extend(end(snapshot.key(node), ["node", "kind", "namespace", "name"]));
    Labels::from_pairs(pairs).expect("names are not empty and occur once")
}

/// The labels of a node: id, kind, namespace, name. A namespace that there is not is left out.
fn end<'a>(key: &NodeKey, [id, kind, namespace, name]: [&'a str; 4]) -> [(&'a str, String); 4] {
    [(id, cut(key.as_str())), (kind, key.kind().to_owned()), (namespace, cut(&key.namespace())), (name, cut(&key.name()))]
}

/// A text that is short enough, and another one for another text.
fn cut(text: &str) -> String {
    if text.len() <= MAX_VALUE_BYTES {
        return text.to_owned();
    }
    let hash = format!("~{:016x}", RecentIds::hash(text) as u64);
    let mut end = MAX_VALUE_BYTES - hash.len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{hash}", &text[..end])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{edges, snapshot};

    #[test]
    fn an_edge_and_its_nodes_have_the_labels_that_joins_need() {
        let graph = snapshot(json!([
            {"edge": {"from": "service:shop/cart", "to": "database:pg%2F1", "body": {"class": "soft"}}},
            {"node": {"node": "service:shop/cart", "body": {"owners": [{"name": "team-a"}, {"name": "team-b"}], "criticality": "high"}}},
        ]));
        let series = of(&graph, 100);
        let of_metric = |metric: &str| -> Vec<&Labels> { series.labels.iter().filter(|l| l.get(METRIC_NAME) == Some(metric)).collect() };
        let edge: Vec<(&str, &str)> = of_metric("isobar_lineage_edge")[0].iter().collect();
        assert_eq!(
            edge,
            [
                ("__name__", "isobar_lineage_edge"),
                ("class", "soft"),
                ("flow", "call"),
                ("from", "service:shop/cart"),
                ("from_kind", "service"),
                ("from_name", "cart"),
                ("from_namespace", "shop"),
                ("relation", "dependency"),
                ("to", "database:pg%2F1"),
                ("to_kind", "database"),
                ("to_name", "pg/1"),
            ]
        );
        let nodes = of_metric("isobar_lineage_node_info");
        let cart = nodes.iter().find(|l| l.get("name") == Some("cart")).expect("is there");
        assert_eq!((cart.get("owner"), cart.get("criticality"), cart.get("kind")), (Some("team-a,team-b"), Some("high"), Some("service")));
        assert_eq!((nodes.len(), series.left_out), (2, 0));
    }

    #[test]
    fn beyond_the_limit_columns_go_first() {
        let graph = edges(
            "column:n/t/a -> column:n/t/b
             instance:n/x -> service:b
             service:a -> service:b
             service:b -> service:c",
        );
        let names = |limit: usize| -> Vec<String> {
            let series = of(&graph, limit);
            assert!(series.labels.len() <= limit && series.labels.len() + series.left_out == 4 + 6);
            let mut names: Vec<String> =
                series.labels.iter().filter_map(|l| Some(format!("{} {}", l.get("from")?, l.get("to")?))).collect();
            names.sort();
            names
        };
        assert_eq!(names(100).len(), 4);
        assert_eq!(names(4), ["instance:n/x service:b", "service:a service:b", "service:b service:c"]);
        assert_eq!(names(2), ["service:a service:b", "service:b service:c"]);
        assert_eq!(names(0).len(), 0);
    }

    #[test]
    fn hostile_names_are_cut_and_stay_different() {
        let (a, b) = ("ü".repeat(300) + "a", "ü".repeat(300) + "b");
        assert!(cut(&a).len() <= MAX_VALUE_BYTES && cut(&a) != cut(&b) && cut(&a) == cut(&a) && cut("short") == "short");
        let graph = snapshot(json!([
            {"node": {"node": NodeKey::new("service", &a, "x\ny").expect("a key")}},
            {"node": {"node": NodeKey::new("service", &b, "x\ny").expect("a key")}},
        ]));
        let series = of(&graph, 100);
        assert_eq!(series.labels.len(), 2);
        assert!(series.labels.iter().all(|l| l.iter().all(|(_, v)| v.len() <= MAX_VALUE_BYTES)));
    }
}
