//! Imports into a store: what vanishes is withdrawn, what cannot be read stays, short names join.

use isobar_block::{TenantId, time};
use object_store::memory::InMemory;

use super::*;
use crate::import::tests::file;
use crate::import::{SourceFile, read};
use crate::store::LineageConfig;
use crate::testing::key;

async fn store() -> Arc<LineageStore> {
    let tenant = TenantId::new("test").expect("valid");
    LineageStore::open(Arc::new(InMemory::new()), tenant, LineageConfig::default()).await.expect("opens")
}

fn options(name: &str) -> Options {
    Options { name: name.into(), folder: true, ..Options::default() }
}

async fn import(store: &Arc<LineageStore>, name: &str, files: &[SourceFile]) -> Report {
    // Every import has a time of its own.
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    let at_ms = time::now_ms();
    let reads = read(files, &options(name), at_ms);
    apply(store, reads, &options(name), true, false, at_ms).await.expect("is stored")
}

async fn has(store: &Arc<LineageStore>, id: &str) -> bool {
    store.snapshot(AsOf::Now).await.expect("a snapshot").find(&key(id)).is_some()
}

fn component(name: &str, depends_on: &str) -> String {
    format!("apiVersion: backstage.io/v1alpha1\nkind: Component\nmetadata: {{name: {name}}}\nspec: {{dependsOn: [{depends_on}]}}\n")
}

#[tokio::test]
async fn what_vanished_is_withdrawn_and_what_is_broken_stays() {
    let store = store().await;
    let (a, b) = (component("a", "x"), component("b", ""));
    let first = import(&store, "repo", &[file("a.yaml", &a), file("d/b.yaml", &b), file("u.service", "[Unit]\nWants=v.service")]).await;
    assert_eq!((first.files.len(), first.failed().count(), first.withdrawn.len()), (3, 0, 0));
    import(&store, "repo-2", &[file("a.yaml", &component("other", ""))]).await;

    // b.yaml is broken now, and a.yaml says less.
    let second = import(&store, "repo", &[file("a.yaml", &component("a", "")), file("d/b.yaml", "a: [")]).await;
    assert_eq!(second.failed().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["d/b.yaml"]);
    assert!(second.withdrawn.is_empty(), "{:?}", second.withdrawn);
    assert!(!has(&store, "service:x").await && has(&store, "service:b").await && has(&store, "workload:u.service").await);

    let third = import(&store, "repo", &[file("a.yaml", &component("a", ""))]).await;
    assert_eq!(third.withdrawn, ["repo/d/b.yaml", "repo"]);
    assert!(has(&store, "service:a").await && !has(&store, "service:b").await && !has(&store, "workload:u.service").await);
    assert!(has(&store, "service:other").await, "an import of another name is none of ours");
    let again = import(&store, "repo", &[file("a.yaml", &component("a", ""))]).await;
    assert!(again.withdrawn.is_empty(), "what is withdrawn is not withdrawn again");
}

#[tokio::test]
async fn nothing_is_stored_that_is_only_tried() {
    let store = store().await;
    let (options, at_ms) = (options("repo"), time::now_ms());
    let reads = read(&[file("a.yaml", &component("a", "b"))], &options, at_ms);
    let report = apply(&store, reads, &options, true, true, at_ms).await.expect("works");
    assert!(report.dry_run && report.files[0].edges == 1 && store.version() == 0);
}

#[tokio::test]
async fn a_refused_file_is_in_the_report() {
    let store = store().await;
    let circle = "apiVersion: backstage.io/v1alpha1\nkind: Component\nmetadata: {name: a}\nspec: {subcomponentOf: b}\n---\napiVersion: backstage.io/v1alpha1\nkind: Component\nmetadata: {name: b}\nspec: {subcomponentOf: a}\n";
    let report = import(&store, "repo", &[file("circle.yaml", circle), file("good.yaml", &component("g", ""))]).await;
    let error = report.failed().next().and_then(|f| f.error.clone()).expect("refused");
    assert!(error.starts_with("circle.yaml: ") && error.contains("must not have a cycle"), "{error}");
    assert!(has(&store, "service:g").await && !has(&store, "service:a").await);
}

#[tokio::test]
async fn short_names_join_while_they_are_clear() {
    let store = store().await;
    let service = |namespace: &str, name: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{}}\n")
    };
    import(&store, "prod", &[file("a.yaml", &(service("shop", "cart") + "---\n" + &service("shop", "pay")))]).await;
    let snapshot = store.snapshot(AsOf::Now).await.expect("a snapshot");
    assert_eq!(snapshot.find(&key("service:cart")), snapshot.find(&key("service:shop/cart")));
    // Another namespace has a service of that name: which one is meant is not clear.
    import(&store, "test", &[file("a.yaml", &(service("staging", "cart") + "---\n" + &service("staging", "mail")))]).await;
    let snapshot = store.snapshot(AsOf::Now).await.expect("a snapshot");
    assert_ne!(snapshot.find(&key("service:staging/cart")), snapshot.find(&key("service:shop/cart")));
    assert_eq!(snapshot.find(&key("service:mail")), snapshot.find(&key("service:staging/mail")));
    // When the first one is imported again, it is not clear there either.
    import(&store, "prod", &[file("a.yaml", &service("shop", "cart"))]).await;
    let snapshot = store.snapshot(AsOf::Now).await.expect("a snapshot");
    assert_eq!(snapshot.find(&key("service:cart")), None);
}
