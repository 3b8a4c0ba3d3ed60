//! Documents as they are asked for. They have no history: there is only the last one of a name.

use std::sync::Arc;

use serde_json::Value;

use super::LineageStore;
use crate::NodeKey;

/// A document of a node: its name, when it was said last (Unix milliseconds), and what it says.
pub type NamedDocument = (Arc<str>, i64, Arc<Value>);

impl LineageStore {
    /// Documents of a node whose names begin with `prefix`, the newest first. The node is the one of this very name, not of its aliases.
    pub fn documents(&self, node: &NodeKey, prefix: &str) -> Vec<NamedDocument> {
        let texts = self.document_texts_of(node, prefix).into_iter();
        texts.map(|(name, updated_ms, text)| (name, updated_ms, parse(&text))).collect()
    }

    /// As [`LineageStore::documents`], as JSON.
    pub fn document_texts_of(&self, node: &NodeKey, prefix: &str) -> Vec<(Arc<str>, i64, Arc<str>)> {
        let state = self.state.read();
        let Some(id) = state.frozen.find(node) else { return Vec::new() };
        state.documents.of(id, prefix).into_iter().map(|(name, d)| (name.clone(), d.updated_ms, d.text.clone())).collect()
    }

    /// The document of a node by its name.
    pub fn document(&self, node: &NodeKey, name: &str) -> Option<(i64, Arc<Value>)> {
        let (updated_ms, text) = {
            let state = self.state.read();
            let document = state.documents.get(state.frozen.find(node)?, name)?;
            (document.updated_ms, document.text.clone())
        };
        Some((updated_ms, parse(&text)))
    }

    /// Documents of this name with the nodes that have them, as for a run whose job is not known: `run/` and the run's id.
    pub fn documents_named(&self, name: &str) -> Vec<(NodeKey, i64, Arc<Value>)> {
        let texts: Vec<(NodeKey, i64, Arc<str>)> = {
            let state = self.state.read();
            let one =
                |id: &u32| state.documents.get(*id, name).map(|d| (state.frozen.nodes[*id].key.clone(), d.updated_ms, d.text.clone()));
            state.documents.holders(name).iter().filter_map(one).collect()
        };
        texts.into_iter().map(|(node, updated_ms, text)| (node, updated_ms, parse(&text))).collect()
    }

    /// Names, times and JSON of all documents whose names begin with `prefix`, the oldest first.
    pub fn document_texts(&self, prefix: &str) -> Vec<(Arc<str>, i64, Arc<str>)> {
        let state = self.state.read();
        let matching = state.documents.iter().filter(|(_, name, _)| name.starts_with(prefix));
        matching.map(|(_, name, d)| (name.clone(), d.updated_ms, d.text.clone())).collect()
    }
}

fn parse(text: &str) -> Arc<Value> {
    Arc::new(serde_json::from_str(text).expect("it was written from a value"))
}

#[cfg(test)]
mod tests {
    use isobar_block::TenantId;
    use object_store::ObjectStore;
    use object_store::memory::InMemory;
    use serde_json::json;

    use super::*;
    use crate::event::{DocumentFact, Event, Fact};
    use crate::store::{LineageConfig, Outcome};
    use crate::testing::key;

    async fn open(bucket: &Arc<dyn ObjectStore>) -> Arc<LineageStore> {
        let config = LineageConfig { linger_ms: 0, follow_ms: 0, ..LineageConfig::default() };
        LineageStore::open(bucket.clone(), TenantId::default(), config).await.expect("opens")
    }

    async fn put(store: &Arc<LineageStore>, node: &str, name: &str, at_ms: i64, body: Value) {
        let mut event = Event::new(format!("{node} {name} {at_ms}"), "test", "", at_ms);
        event.facts = vec![Fact::Document(DocumentFact { node: key(node), name: name.into(), body })];
        let outcomes = store.append(vec![event]).await.expect("appends");
        assert!(matches!(outcomes[0], Outcome::Stored(_)), "{outcomes:?}");
    }

    #[tokio::test]
    async fn documents_survive_restarts_and_are_no_change_of_the_graph() {
        let bucket: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let store = open(&bucket).await;
        put(&store, "job:n/a", "run/1", 10, json!({"state": "START", "ü": [1, null]})).await;
        let before = store.snapshot(crate::AsOf::At(1000)).await.expect("a snapshot");
        put(&store, "job:n/a", "run/1", 20, json!({"state": "COMPLETE", "ü": [1, null]})).await;
        put(&store, "job:n/b", "run/2", 30, json!({"state": "FAIL"})).await;
        put(&store, "job:n/b", "run/3", 40, json!({"state": "FAIL"})).await;
        store.checkpoint().await.expect("is written");
        put(&store, "job:n/b", "run/3", 50, Value::Null).await;
        put(&store, "job:n/b", "run/4", 5, json!(true)).await;
        let after = store.snapshot(crate::AsOf::At(1000)).await.expect("a snapshot");
        assert!(Arc::ptr_eq(&before.graph, &after.graph));
        for store in [&store, &open(&bucket).await] {
            let one = Arc::new(json!({"state": "COMPLETE", "ü": [1, null]}));
            assert_eq!(store.documents(&key("job:n/a"), "run/"), [("run/1".into(), 20, one.clone())]);
            let names: Vec<_> = store.documents(&key("job:n/b"), "").into_iter().map(|(name, at, _)| (name.to_string(), at)).collect();
            assert_eq!(names, [("run/2".into(), 30), ("run/4".into(), 5)]);
            assert_eq!(store.document(&key("job:n/a"), "run/1"), Some((20, one.clone())));
            assert_eq!(store.documents_named("run/1"), [(key("job:n/a"), 20, one)]);
            assert!(store.document(&key("job:n/b"), "run/3").is_none() && store.documents_named("run/3").is_empty());
            assert!(store.documents(&key("job:n/c"), "").is_empty());
            assert_eq!(store.document_texts("run/").iter().map(|(_, t, _)| *t).collect::<Vec<_>>(), [5, 20, 30]);
            assert_eq!(store.sizes().documents, 3);
        }
    }
}
