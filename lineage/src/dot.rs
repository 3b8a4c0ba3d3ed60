//! A picture of a part of the graph in the language of Graphviz: `dot -Tsvg` draws it.
//!
//! Arrows point from the dependent to the provider. Soft edges are dashed, orders dotted, parts of a whole have a diamond; a node that
//! has failed is red, and one that is touched is the darker the likelier it is.

use std::collections::HashMap;
use std::fmt::Write;

use crate::analysis::blast::Blast;
use crate::model::{Class, Flow, NodeKey, Relation, Status};
use crate::snapshot::{EdgeView, NodeRef};

/// Shape and fill of a kind; others are boxes.
const SHAPES: &[(&str, &str)] = &[
    ("service", "box"),
    ("interface", "oval"),
    ("job", "cds"),
    ("dataset", "cylinder"),
    ("database", "cylinder"),
    ("topic", "parallelogram"),
    ("broker", "parallelogram"),
    ("application", "house"),
    ("project", "folder"),
    ("team", "egg"),
    ("host", "box3d"),
    ("metric", "note"),
    ("dashboard", "tab"),
    ("external", "doubleoctagon"),
];

/// Writes nodes and edges as a digraph; `blast` colours them.
pub fn write(nodes: &[NodeRef], edges: &[EdgeView], blast: Option<&Blast>) -> String {
    let mut out =
        String::from("digraph lineage {\n  rankdir=LR;\n  node [fontname=\"Helvetica\" fontsize=11 style=filled fillcolor=white];\n");
    out.push_str("  edge [fontname=\"Helvetica\" fontsize=9];\n");
    let touched: HashMap<&NodeKey, f64> =
        blast.into_iter().flat_map(|b| &b.impacts).map(|i| (&i.node.id, i.probability.max(i.starvation))).collect();
    let failed: Vec<&NodeKey> = blast.into_iter().flat_map(|b| &b.failed).map(|n| &n.id).collect();
    for node in nodes {
        let shape = SHAPES.iter().find(|(kind, _)| *kind == node.kind).map_or("box", |(_, shape)| shape);
        let mut label = format!("{}\n{}", node.name, node.kind);
        let mut color = String::from("white");
        if failed.contains(&&node.id) {
            color = "#d03030".into();
            label.push_str("\ndown");
        } else if let Some(probability) = touched.get(&node.id) {
            // From white to orange in HSV, by how likely it is that the node notices.
            color = format!("0.080 {:.3} 1.000", 0.1 + 0.75 * probability.clamp(0.0, 1.0));
            let _ = write!(label, "\n{:.0} %", probability * 100.0);
        }
        let _ = writeln!(out, "  {} [label={} shape={shape} fillcolor={}];", quote(node.id.as_str()), quote(&label), quote(&color));
    }
    for edge in edges {
        let _ = writeln!(out, "  {} -> {} [{}];", quote(edge.from.as_str()), quote(edge.to.as_str()), style(edge));
    }
    out.push_str("}\n");
    out
}

fn style(edge: &EdgeView) -> String {
    let line = match edge.class {
        Class::Hard => "solid",
        Class::Soft => "dashed",
        Class::Ordering => "dotted",
    };
    let mut style = format!("style={line}");
    if edge.relation == Relation::Composition {
        style.push_str(" dir=back arrowtail=diamond");
    } else if edge.flow == Flow::Data {
        style.push_str(" color=\"#2060a0\"");
    }
    if edge.status == Status::Stale {
        style.push_str(" color=gray70");
    }
    if edge.share < 1.0 {
        let _ = write!(style, " label=\"{:.0} %\"", f64::from(edge.share) * 100.0);
    }
    style
}

/// A quoted string. Only quotes and backslashes mean something inside; a newline becomes a line break of the label.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use crate::analysis::blast::{BlastRequest, Live};
    use crate::testing::{edges, key};
    use crate::{Budget, NodeIdx};

    use super::*;

    #[test]
    fn names_are_quoted_and_what_is_down_is_red() {
        let snapshot = edges("a\\\"b -> payment {\"class\": \"soft\"}\n shop -> a\\\"b");
        let nodes: Vec<NodeRef> = snapshot.nodes().map(|n: NodeIdx| snapshot.node_ref(n)).collect();
        let all: Vec<EdgeView> = snapshot.edges().map(|e| snapshot.edge(e)).collect();
        let blast = snapshot.blast(&BlastRequest::new(vec![key("payment")]), &Live::default(), &mut Budget::default()).expect("is there");
        let text = write(&nodes, &all, Some(&blast.result));
        assert!(text.contains(r#""service:a\\\"b" -> "service:payment" [style=dashed]"#), "{text}");
        assert!(text.contains(r##""service:payment" [label="payment\nservice\ndown" shape=box fillcolor="#d03030"]"##), "{text}");
        assert_eq!(text.matches("->").count(), 2);
    }
}
