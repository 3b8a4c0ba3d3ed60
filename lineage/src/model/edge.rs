//! What is said about an edge. Edges run from the dependent to the provider: a caller to what it calls, a table to the job that
//! writes it, a whole to its parts.

use serde::{Deserialize, Serialize};

use super::node::Attributes;

/// Probability that the dependent fails when a call to a provider of class soft does, unless somebody has stated or measured another one.
pub const SOFT_COUPLING: f32 = 0.1;

/// Factor on the confidence of what is stale.
pub const STALE_CONFIDENCE: f32 = 0.5;

/// How two nodes belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// The dependent uses the provider.
    #[default]
    Dependency,
    /// The dependent is a whole and the provider is a part of it. Must not have cycles.
    Composition,
}

/// What a failure of the provider does to the dependent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// It fails too.
    #[default]
    Hard,
    /// It goes on, with less.
    Soft,
    /// Nothing: they are only started one after the other.
    Ordering,
}

/// What flows from the provider to the dependent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    /// Answers to calls: a failure is an error.
    Call,
    /// Data, later: a failure makes the dependent stale.
    Data,
}

/// How it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// A manifest, a catalog or a person says so.
    #[default]
    Declared,
    /// Traffic or a run shows it.
    Observed,
    /// An experiment has shown it.
    Proven,
}

/// Which kinds of evidence there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EvidenceSet(u8);

impl EvidenceSet {
    /// Adds one.
    pub fn insert(&mut self, evidence: Evidence) {
        self.0 |= 1 << evidence as u8;
    }

    /// Whether it is there.
    pub fn contains(self, evidence: Evidence) -> bool {
        self.0 & (1 << evidence as u8) != 0
    }

    /// All that are there.
    pub fn iter(self) -> impl Iterator<Item = Evidence> {
        [Evidence::Declared, Evidence::Observed, Evidence::Proven].into_iter().filter(move |e| self.contains(*e))
    }
}

impl Serialize for EvidenceSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

/// How fresh a statement is at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// In force.
    Live,
    /// Not seen for longer than its TTL; still in the graph, with less confidence.
    Stale,
    /// Withdrawn, or not seen for so long that it does not count.
    Expired,
}

/// Providers that stand in for each other: the dependent needs `k` of `n`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Which edges of the dependent belong together.
    pub id: String,
    /// So many have to work; 0 if the dependent can do without (scaled to zero).
    pub k: u32,
    /// So many there are; the number of known members if it is left out or less than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
}

/// What one source says about an edge. What it does not know it leaves out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeBody {
    /// How it is known.
    #[serde(default, skip_serializing_if = "is_default")]
    pub evidence: Evidence,
    /// What a failure of the provider does; hard if nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// What flows; follows from the kinds of the nodes and from the lag if nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<Flow>,
    /// The redundancy group that the provider is a member of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Box<Group>>,
    /// Fraction of the dependent's requests that use the provider, 0 to 1; 1 if nobody says. 0 means reachable, but not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f32>,
    /// Probability that the dependent fails when its call to the provider does, 0 to 1; follows from the class if nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coupling: Option<f32>,
    /// How much later the dependent has what the provider had; makes it a flow of data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_ms: Option<i64>,
    /// Probability that the edge is real, 0 to 1; 1 if nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f32>,
    /// Anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Box<Attributes>>,
}

/// Changes of a share, a coupling or a confidence below this fraction are noise: they make no new entry in an edge's history.
const NOISE: f32 = 0.05;

/// Changes of a lag below this fraction are noise.
const LAG_NOISE: f64 = 0.1;

impl EdgeBody {
    /// Rounds numbers to four digits, so that they are the same after a trip through JSON.
    pub(crate) fn round(&mut self) {
        for value in [&mut self.share, &mut self.coupling, &mut self.confidence].into_iter().flatten() {
            *value = round(*value);
        }
    }

    /// Whether the other one says the same, apart from noise in what is measured.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        let near = |a: Option<f32>, b: Option<f32>| match (a, b) {
            (Some(a), Some(b)) => (a - b).abs() <= NOISE * a.abs().max(b.abs()),
            (a, b) => a == b,
        };
        let lag = match (self.lag_ms, other.lag_ms) {
            (Some(a), Some(b)) => (a - b).abs() as f64 <= LAG_NOISE * a.abs().max(b.abs()) as f64,
            (a, b) => a == b,
        };
        lag && near(self.share, other.share)
            && near(self.coupling, other.coupling)
            && near(self.confidence, other.confidence)
            && (self.evidence, self.class, self.flow) == (other.evidence, other.class, other.flow)
            && self.group == other.group
            && self.attributes == other.attributes
    }
}

/// The value with four significant decimal digits.
fn round(value: f32) -> f32 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_json_and_small_changes_are_noise() {
        for i in 0..2000 {
            let mut body = EdgeBody { share: Some(i as f32 / 1997.3), confidence: Some(1.0 / (i as f32 + 1.7)), ..EdgeBody::default() };
            body.round();
            let json = serde_json::to_string(&body).expect("serializes");
            assert_eq!(serde_json::from_str::<EdgeBody>(&json).expect("parses"), body, "{json}");
        }
        let with = |share| EdgeBody { share: Some(share), ..EdgeBody::default() };
        assert!(
            with(0.5).says_the_same(&with(0.51)) && !with(0.5).says_the_same(&with(0.6)) && !with(0.5).says_the_same(&EdgeBody::default())
        );
        assert!(with(0.0).says_the_same(&with(0.0)) && !with(0.0).says_the_same(&with(0.001)));
    }
}
