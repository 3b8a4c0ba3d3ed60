//! The PromQL front end: text to a checked syntax tree, and back to text. It knows the language of Prometheus 3.14 with all
//! experimental parts and nothing of data.

pub mod ast;
mod check;
pub mod duration;
pub mod functions;
mod lexer;
mod parser;
pub mod print;
pub mod quote;
#[cfg(test)]
mod tests;

use std::fmt;

use ast::{Expr, Span, VectorSelector};

/// Longest query text that is parsed, in bytes.
pub const MAX_QUERY_BYTES: usize = 1 << 20;

/// How deep calls, parentheses and signs may be nested.
pub const MAX_NESTING: u32 = 100;

/// Height of the highest syntax tree, so that code that walks one recursively is safe. A chain of n operators is n high.
pub const MAX_HEIGHT: u32 = 300;

/// Why a query text is not a query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ParseError {
    /// What the message is about.
    pub span: Span,
    /// Line and column of the first byte, both from 1; `None` for an empty text.
    pub position: Option<(usize, usize)>,
    /// The message, in the words of Prometheus where it has the same error.
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some((line, column)) => write!(f, "{line}:{column}: parse error: {}", self.message),
            None => write!(f, "unknown position: parse error: {}", self.message),
        }
    }
}

impl From<ParseError> for crate::result::Error {
    fn from(error: ParseError) -> Self {
        Self::BadData(error.to_string())
    }
}

/// Parses and checks an expression.
///
/// # Errors
/// The first mistake in the text, or a limit of this module.
pub fn parse(query: &str) -> Result<Expr, ParseError> {
    let mut expr = parser::parse_expression(query).map_err(|e| e.locate(query))?;
    check::check(&mut expr, query).map_err(|e| e.locate(query))?;
    Ok(expr)
}

/// Parses a selector without range and modifiers, as in `match[]`. It may have no matcher at all, or only ones that accept
/// the empty text.
///
/// # Errors
/// As [`parse`].
pub fn parse_selector(text: &str) -> Result<VectorSelector, ParseError> {
    parser::parse_selector(text).map_err(|e| e.locate(text))
}

/// Line and column (in bytes) of byte `offset` of a query, both from 1.
pub fn line_column(query: &str, offset: u32) -> (usize, usize) {
    let before = &query.as_bytes()[..query.len().min(offset as usize)];
    let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
    (before.iter().filter(|b| **b == b'\n').count() + 1, before.len() - line_start + 1)
}

/// An error before its line and column are known.
#[derive(Debug)]
struct Mistake {
    span: Span,
    message: String,
}

impl Mistake {
    fn new(span: Span, message: impl Into<String>) -> Self {
        Self { span, message: message.into() }
    }

    fn locate(self, query: &str) -> ParseError {
        let position = (!query.is_empty()).then(|| line_column(query, self.span.start));
        ParseError { span: self.span, position, message: self.message }
    }
}
