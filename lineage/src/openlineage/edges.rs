//! Edges of one event, each once: what it says several times of the same two nodes is put together.

use std::collections::HashMap;

use serde_json::Value;

use super::voice::Voice;
use crate::event::Fact;
use crate::model::{Attributes, EdgeBody, NodeKey};

/// Transformations that are kept of one edge.
const MAX_TRANSFORMATIONS: usize = 100;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Edges {
    list: Vec<(NodeKey, NodeKey, EdgeBody)>,
    index: HashMap<(NodeKey, NodeKey), usize>,
}

impl Edges {
    /// That `from` depends on `to`. Nothing if they are the same, such as a table that is made of itself.
    pub fn add(&mut self, from: &NodeKey, to: &NodeKey, body: EdgeBody) {
        if from == to {
            return;
        }
        let ends = (from.clone(), to.clone());
        match self.index.get(&ends) {
            Some(&i) => join(&mut self.list[i].2, body),
            None => {
                self.index.insert(ends, self.list.len());
                self.list.push((from.clone(), to.clone(), body));
            }
        }
    }

    /// Puts all edges behind the facts.
    pub fn say(self, voice: &Voice, out: &mut Vec<Fact>) {
        for (from, to, body) in self.list {
            voice.depends(&from, &to, body, out);
        }
    }
}

/// What fails the dependent more counts, and the transformations of both.
fn join(body: &mut EdgeBody, other: EdgeBody) {
    body.class = match (body.class, other.class) {
        (Some(a), Some(b)) => Some(a.min(b)),
        _ => None,
    };
    body.lag_ms = body.lag_ms.max(other.lag_ms);
    let Some(theirs) = other.attributes else { return };
    let mine: &mut Attributes = body.attributes.get_or_insert_default();
    for (name, value) in *theirs {
        match (mine.get_mut(&name), value) {
            (None, value) => drop(mine.insert(name, value)),
            (Some(Value::Array(known)), Value::Array(more)) => {
                for value in more {
                    if known.len() < MAX_TRANSFORMATIONS && !known.contains(&value) {
                        known.push(value);
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Class;
    use crate::openlineage::voice::{named, ordering};

    #[test]
    fn what_is_said_twice_is_one_edge() {
        let node = |name: &str| NodeKey::parse(&format!("dataset:n/{name}")).expect("valid");
        let body = |t: &str| EdgeBody { attributes: named(&[("transformations", json!([{"type": t}]))]), ..EdgeBody::default() };
        let mut edges = Edges::default();
        edges.add(&node("a"), &node("a"), EdgeBody::default());
        edges.add(&node("a"), &node("b"), ordering(&[]));
        edges.add(&node("a"), &node("b"), body("DIRECT"));
        edges.add(&node("a"), &node("b"), body("INDIRECT"));
        edges.add(&node("a"), &node("b"), body("DIRECT"));
        edges.add(&node("a"), &node("c"), ordering(&[]));
        edges.add(&node("a"), &node("c"), ordering(&[]));
        let mut facts = Vec::new();
        edges.say(&Voice::declared(1), &mut facts);
        let [Fact::Edge(b), Fact::Edge(c)] = &facts[..] else { panic!("{facts:?}") };
        assert_eq!((b.body.class, c.body.class), (None, Some(Class::Ordering)));
        let attributes = b.body.attributes.as_ref().expect("has some");
        assert_eq!(attributes["transformations"], json!([{"type": "DIRECT"}, {"type": "INDIRECT"}]));
    }
}
