//! Ids of nodes as Marquez writes them: `dataset:{namespace}:{name}`, `job:…`, `datasetField:{namespace}:{dataset}:{field}`, `run:{id}`,
//! and optionally `#` and a version.
//!
//! Namespaces and names may have colons, so that an id can be read in several ways. Marquez takes colons before `//` or a digit for a part
//! of the namespace. That reading comes first here; the others follow, and the first one whose node exists counts.

use super::Kind;

/// Most readings of one id that are tried.
const MAX_READINGS: usize = 256;

/// Which node is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NodeId {
    /// A dataset or a job: readings as namespace and name.
    Named(Kind, Vec<(String, String)>),
    /// A field of a dataset: readings as namespace, dataset and field.
    Field(Vec<(String, String, String)>),
    /// A run.
    Run(String),
}

impl NodeId {
    /// Reads an id, and the version if it has one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<(Self, Option<&str>), String> {
        let (id, version) = match text.rsplit_once('#') {
            Some((id, version)) if is_uuid(version) => (id, Some(version)),
            _ => (text, None),
        };
        let shown = || text.chars().take(100).collect::<String>();
        let (kind, rest) = id.split_once(':').unwrap_or((id, ""));
        let named = |kind| {
            let readings: Vec<_> = two(rest).into_iter().map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
            if readings.is_empty() { None } else { Some(Self::Named(kind, readings)) }
        };
        let read = match kind {
            "dataset" => named(Kind::Dataset),
            "job" => named(Kind::Job),
            "datasetField" => {
                let readings: Vec<_> = three(rest).into_iter().map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())).collect();
                (!readings.is_empty()).then_some(Self::Field(readings))
            }
            "run" if is_uuid(rest) => Some(Self::Run(rest.to_owned())),
            _ => None,
        };
        let remedy = "write dataset:{namespace}:{name}, job:{namespace}:{name}, datasetField:{namespace}:{dataset}:{field} or run:{uuid}";
        read.map(|id| (id, version)).ok_or_else(|| format!("{:?} is no id of a node; {remedy}", shown()))
    }
}

/// Whether it has the form of a UUID.
pub(super) fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.char_indices().all(|(i, c)| if [8, 13, 18, 23].contains(&i) { c == '-' } else { c.is_ascii_hexdigit() })
}

/// Where a text can be divided: Marquez's places first, then all others from the end, because namespaces have colons more often than names.
fn places(text: &str) -> (Vec<usize>, Vec<usize>) {
    let all: Vec<usize> = text.match_indices(':').map(|(i, _)| i).collect();
    let rule = |i: &usize| {
        let next = &text[i + 1..];
        !(next.starts_with("//") || next.starts_with(|c: char| c.is_ascii_digit()))
    };
    (all.iter().copied().filter(rule).collect(), all)
}

/// Readings as two parts.
fn two(text: &str) -> Vec<(&str, &str)> {
    let (by_rule, all) = places(text);
    let first = if all.len() == 1 { all.first() } else { by_rule.first() };
    let places = first.into_iter().chain(all.iter().rev().filter(|i| first != Some(*i)));
    let parts = places.map(|i| (&text[..*i], &text[i + 1..]));
    parts.filter(|(_, name)| !name.is_empty()).take(MAX_READINGS).collect()
}

/// Readings as three parts.
fn three(text: &str) -> Vec<(&str, &str, &str)> {
    let (by_rule, all) = places(text);
    let first = match (&all[..], &by_rule[..]) {
        ([a, b], _) | (_, [a, b, ..]) => Some((*a, *b)),
        _ => None,
    };
    let others = all.iter().enumerate().rev().flat_map(|(n, b)| all[..n].iter().rev().map(|a| (*a, *b)));
    let places = first.into_iter().chain(others.filter(|p| first != Some(*p)));
    let parts = places.take(MAX_READINGS).map(|(a, b)| (&text[..a], &text[a + 1..b], &text[b + 1..]));
    parts.filter(|(_, dataset, field)| !dataset.is_empty() && !field.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(text: &str) -> (String, String) {
        match NodeId::parse(text) {
            Ok((NodeId::Named(_, readings), None)) => readings[0].clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn colons_of_namespaces_are_told_from_delimiters() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(first("dataset:postgres://db:5432:shop.public.orders"), pair("postgres://db:5432", "shop.public.orders"));
        assert_eq!(first("dataset:s3://bucket:a/b/c.csv"), pair("s3://bucket", "a/b/c.csv"));
        assert_eq!(first("job:airflow-prod:daily.build"), pair("airflow-prod", "daily.build"));
        assert_eq!(first("job:default:7days"), pair("default", "7days"), "there is only one colon");
        let Ok((NodeId::Named(Kind::Dataset, readings), _)) = NodeId::parse("dataset:arn:aws:glue:eu:1:table/x") else { panic!("is read") };
        assert!(readings.contains(&pair("arn:aws:glue:eu:1", "table/x")) && readings.contains(&pair("arn", "aws:glue:eu:1:table/x")));
        let Ok((NodeId::Field(readings), _)) = NodeId::parse("datasetField:postgres://db:5432:shop.public.orders:amount") else {
            panic!("is read")
        };
        assert_eq!(readings[0], ("postgres://db:5432".into(), "shop.public.orders".into(), "amount".into()));
    }

    #[test]
    fn versions_and_runs_and_nonsense() {
        let uuid = "01a200c5-b4cc-774c-bb18-7a9dc329eb5f";
        let text = format!("dataset:a:b#{uuid}");
        assert_eq!(NodeId::parse(&text).expect("is read").1, Some(uuid));
        assert_eq!(first("dataset:a:b#c"), ("a".into(), "b#c".into()));
        assert_eq!(NodeId::parse(&format!("run:{uuid}")), Ok((NodeId::Run(uuid.into()), None)));
        for bad in ["", "dataset", "dataset:", "dataset:a", "dataset:a:", "table:a:b", "datasetField:a:b", "run:7", "::", "datasetField:::"]
        {
            assert!(NodeId::parse(bad).expect_err(bad).contains("is no id of a node"));
        }
        let hostile = format!("datasetField{}", ":".repeat(100_000));
        assert!(NodeId::parse(&hostile).is_err());
        let hostile = format!("dataset:{}", "a:".repeat(30_000) + "b");
        assert!(matches!(NodeId::parse(&hostile), Ok((NodeId::Named(_, readings), _)) if readings.len() == MAX_READINGS));
    }
}
