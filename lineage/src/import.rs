//! Files that describe a graph, as facts of one source scope: what vanished from a file since its last import is withdrawn.

pub mod yaml;
