//! What is said about a node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::edge::{Evidence, is_default};

/// Named values of a node or an edge, as JSON.
pub type Attributes = BTreeMap<String, Value>;

/// How much it matters to the business that a node works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Criticality {
    /// Nobody would notice for a while.
    Low,
    /// What nobody has said anything about.
    #[default]
    Medium,
    /// Customers notice.
    High,
    /// The business stands still.
    Critical,
}

impl Criticality {
    /// Factor on the expected lost requests when nodes are ranked.
    pub fn weight(self) -> f64 {
        match self {
            Self::Low => 0.3,
            Self::Medium => 1.0,
            Self::High => 3.0,
            Self::Critical => 10.0,
        }
    }
}

/// Who answers for a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// A team, a person, an address: as the source gives it.
    pub name: String,
    /// In which role, where the source says.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub role: String,
}

/// What one source says about a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeBody {
    /// How it is known.
    #[serde(default, skip_serializing_if = "is_default")]
    pub evidence: Evidence,
    /// A name for people, if it differs from the key's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// What it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Who answers for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<Owner>,
    /// How much it matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub criticality: Option<Criticality>,
    /// Words to find it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Where traffic or work begins: it counts as an entry also if somebody depends on it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub entry: bool,
    /// Anything else; checked against the node's type if the type says something about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: Attributes,
}
