//! The words of the graph: how nodes are named, what types they have, what is said about nodes and edges.
//!
//! Values here are as somebody states them. How statements of several sources over time become one graph is [`crate::history`]'s and
//! [`crate::snapshot`]'s.

pub mod key;
pub mod kind;
pub mod node;
pub mod edge;

pub use edge::{Class, EdgeBody, Evidence, EvidenceSet, Flow, Group, Relation, Status};
pub use key::NodeKey;
pub use kind::{AttributeType, TypeBody, TypeTable, ValueType};
pub use node::{Attributes, Criticality, NodeBody, Owner};
