//! Whole folders of files of several kinds; also what the tests of the single formats stand on.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::*;
use crate::snapshot::Snapshot;
use crate::testing::fold;

/// When files are read.
pub const AT_MS: i64 = 1_000_000;

/// A folder of fixtures, or a file.
pub fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/suite/fixtures/lineage").join(path)
}

/// Reads fixtures; none has an error.
pub fn reads(path: &str, options: &Options) -> Vec<Read> {
    let reads = detect_and_read(&fixture(path), options, AT_MS).expect("the fixtures are there");
    for read in &reads {
        assert!(read.error.is_none(), "{}: {:?}", read.path, read.error);
    }
    reads
}

/// The graph of everything that was read.
pub fn graph(reads: Vec<Read>) -> Snapshot {
    fold(reads.into_iter().flat_map(|r| r.events).collect(), AT_MS + 1)
}

/// One file.
pub fn file(path: &str, content: &str) -> SourceFile {
    SourceFile { path: path.into(), content: content.into(), link: None }
}

/// The edges from nodes whose id contains `of`, as lines: ends, relation, class, and what else is said.
pub fn lines(graph: &Snapshot, of: &str) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for edge in graph.edges() {
        let view = graph.edge(edge);
        if !view.from.to_string().contains(of) {
            continue;
        }
        let relation = if view.relation == crate::model::Relation::Composition { "=>" } else { "->" };
        let mut line = format!("{} {relation} {} {:?}", view.from, view.to, view.class).to_lowercase();
        if let Some(group) = &view.group {
            line += &format!(" {}/{}of{}", group.id, group.k, group.n.map_or("?".into(), |n| n.to_string()));
        }
        if view.share < 1.0 {
            line += &format!(" share={}", view.share);
        }
        if view.confidence < 1.0 {
            line += &format!(" confidence={}", view.confidence);
        }
        if view.flow == crate::model::Flow::Data {
            line += " data";
        }
        out.insert(line);
    }
    out
}

/// Asserts that these lines are among the edges from nodes of that name, and how many edges these have.
pub fn assert_lines(graph: &Snapshot, of: &str, count: usize, wanted: &[&str]) {
    let found = lines(graph, of);
    for line in wanted {
        assert!(found.contains(*line), "{line} is not in {found:#?}");
    }
    assert_eq!(found.len(), count, "{found:#?}");
}

#[test]
fn formats_are_known_by_content() {
    for (path, content, wanted) in [
        ("x", "apiVersion: v1\nkind: Pod\nmetadata: {name: a}", Some(Format::Kubernetes)),
        ("x", "# c\n---\n---\napiVersion: backstage.io/v1alpha1\nkind: Group\nmetadata: {name: a}", Some(Format::Backstage)),
        ("x", "{\"metadata\": {\"dbt_schema_version\": \"v12\"}, \"nodes\": {}}", Some(Format::Dbt)),
        ("x", "[Unit]\nWants=b.service", Some(Format::Systemd)),
        ("a.service", "", Some(Format::Systemd)),
        ("x", "edges: []", Some(Format::Yaml)),
        ("x", "name: isobar\nversion: 1", None),
        ("x", "{\"name\": \"x\", \"dependencies\": {}}", None),
        ("x", "just words", None),
        ("x", "", None),
    ] {
        let (format, _) = detect(&file(path, content)).unwrap_or_else(|e| panic!("{content}: {e}"));
        assert_eq!(format, wanted, "{content}");
    }
}

#[test]
fn one_bad_file_does_not_stop_the_others() {
    let files = [
        file("a.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {type: ExternalName, externalName: x.example.org}"),
        file("b.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: b\nspec: {}"),
        file("c/d.yaml", "nodes: [{id: nothing}]"),
        file("e.json", "{\"name\": 1}"),
        file("f.service", "[Unit]\nRequires=g.service"),
    ];
    let options = Options { name: "repo".into(), folder: true, source: Some("ci".into()), ..Options::default() };
    let reads = read(&files, &options, AT_MS);
    let errors: Vec<_> = reads.iter().filter_map(|r| r.error.as_ref()).map(ToString::to_string).collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].starts_with("b.yaml: ") && errors[0].contains("line "), "{}", errors[0]);
    assert!(errors[1].starts_with("repo/c/d.yaml: ") && errors[1].contains("no node id"), "{}", errors[1]);
    let said: Vec<_> = reads.iter().flat_map(|r| &r.events).map(|e| (e.source.as_str(), e.scope.as_str(), e.complete_since_ms)).collect();
    assert_eq!(said, [("ci", "repo/a.yaml", Some(AT_MS)), ("ci", "repo", None)], "unit files do not vanish while a file cannot be read");
    assert_eq!(reads[3].warnings.len(), 1, "{:?}", reads[3]);
    let alone = read(&files[3..4], &Options { folder: false, ..options }, AT_MS);
    assert!(alone[0].error.as_ref().expect("it was named").to_string().contains("is none of Kubernetes"));
}

#[test]
fn a_large_file_makes_several_events() {
    let objects: String = (0..EVENT_FACTS)
        .map(|i| format!("---\napiVersion: v1\nkind: Node\nmetadata: {{name: n{i}, labels: {{topology.kubernetes.io/zone: z}}}}\n"))
        .collect();
    let reads = read(&[file("nodes.yaml", &objects)], &Options { name: "large".into(), ..Options::default() }, AT_MS);
    let sizes: Vec<_> = reads[0].events.iter().map(|e| (e.facts.len(), e.complete_since_ms.is_some())).collect();
    assert_eq!(sizes, [(EVENT_FACTS, false), (EVENT_FACTS, true)]);
    assert_ne!(reads[0].events[0].id, reads[0].events[1].id);
    assert_eq!((reads[0].nodes, graph(reads).edge_count()), (EVENT_FACTS + 1, EVENT_FACTS));
}

#[test]
fn hostile_names_are_left_out_with_a_warning() {
    let long = "x".repeat(70_000);
    let content = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {long}}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: a}}\n---\napiVersion: v1\nkind: Node\nmetadata: {{name: \"Ünï/%:\\n\"}}\n---\n[1, 2]\n---\nword\n"
    );
    let reads = read(&[file("x.yaml", &content)], &Options::default(), AT_MS);
    assert_eq!(reads[0].warnings.len(), 4, "{:?}", reads[0].warnings);
    assert!(reads[0].warnings.iter().any(|w| w.starts_with("line 5: Pod has no metadata.name")), "{:?}", reads[0].warnings);
    assert_eq!(graph(reads).nodes().count(), 1);
}

/// Files that are broken in many ways: an error or not, but never a panic, and never an event that the store would refuse as too large.
#[test]
fn no_broken_file_panics() {
    let mut random = crate::testing::Random(7);
    let collected = folder::collect(&fixture("")).expect("the fixtures are there");
    for original in &collected.files {
        let chars: Vec<char> = original.content.chars().collect();
        for _ in 0..if chars.len() > 10_000 { 10 } else { 100 } {
            let mut broken = chars.clone();
            for _ in 0..=random.below(4) {
                if broken.is_empty() {
                    break;
                }
                let at = random.below(broken.len() as u64) as usize;
                match random.below(4) {
                    0 => drop(broken.remove(at)),
                    1 => broken.insert(at, ['-', ':', '%', '\\', '"', '{', '\n', '@', 'é', ' '][random.below(10) as usize]),
                    2 => broken.truncate(at),
                    _ => {
                        let other = random.below(broken.len() as u64) as usize;
                        broken.swap(at, other);
                    }
                }
            }
            let file = SourceFile { path: original.path.clone(), content: broken.into_iter().collect(), link: original.link.clone() };
            let reads = read(&[file], &Options::default(), AT_MS);
            assert!(reads.iter().all(|r| r.error.is_none() || r.events.is_empty()));
        }
    }
}
