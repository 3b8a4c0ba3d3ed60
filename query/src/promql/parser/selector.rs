//! Selectors of series, and what may follow an expression: ranges, subqueries, `offset`, `@`, `anchored` and `smoothed`.

use isobar_block::labels::METRIC_NAME;
use isobar_block::{MatchOp, Matcher};

use super::super::ast::{At, BinaryOp, Duration, Expr, ExprKind, RangeMode, Span, Subquery, VectorSelector};
use super::super::lexer::{Keyword, Kind, Token};
use super::super::quote::{float, quote};
use super::{Mistake, Parsed, Parser, Tree, is_word};

const CONTEXT: &str = "label matching";

impl Parser<'_> {
    /// Whether a token can be the name of a metric. Many reserved words can.
    pub(super) fn is_metric_name(&self, token: Token) -> bool {
        match token.kind {
            Kind::Identifier | Kind::MetricIdentifier | Kind::Aggregate(_) => true,
            Kind::Operator(op) => op != BinaryOp::Atan2 && is_word(self.text(token)),
            Kind::Keyword(keyword) => {
                !matches!(keyword, Keyword::Bool | Keyword::On | Keyword::Ignoring | Keyword::GroupLeft | Keyword::GroupRight)
            }
            _ => false,
        }
    }

    pub(super) fn vector_selector(&mut self) -> Parsed<VectorSelector> {
        let start = self.peek().span.start;
        let mut selector = VectorSelector { name: None, matchers: Vec::new(), offset: None, at: None, mode: RangeMode::Plain };
        if !self.at_punctuation(b'{') {
            let token = self.advance();
            selector.name = Some(self.text(token).to_owned());
        }
        let outside = selector.name.clone();
        if self.accept(b'{') {
            while !self.accept(b'}') {
                let (matcher, is_name) = self.matcher()?;
                if is_name {
                    selector.name = Some(matcher.value().to_owned());
                }
                selector.matchers.push(matcher);
                if !self.accept(b',') && !self.at_punctuation(b'}') {
                    return Err(self.unexpected(CONTEXT, "\",\" or \"}\""));
                }
            }
        }
        let mut named = selector.matchers.iter().filter(|m| m.name() == METRIC_NAME && (outside.is_some() || m.op() == MatchOp::Equal));
        let first = outside.as_deref().or_else(|| named.next().map(Matcher::value));
        if let (Some(first), Some(second)) = (first, named.next()) {
            let message = format!("metric name must not be set twice: {} or {}", quote(first), quote(second.value()));
            return Err(Mistake::new(self.span_from(start), message));
        }
        if let Some(name) = outside {
            let span = self.span_from(start);
            selector.matchers.push(matcher(METRIC_NAME, MatchOp::Equal, &name, span)?);
        }
        Ok(selector)
    }

    /// One condition in braces, and whether it is a metric name in quotes.
    fn matcher(&mut self) -> Parsed<(Matcher, bool)> {
        let token = self.peek();
        let quoted = token.kind == Kind::String;
        let name = match token.kind {
            Kind::Identifier => {
                self.advance();
                self.text(token).to_owned()
            }
            Kind::String => self.string()?,
            _ => return Err(self.unexpected(CONTEXT, "identifier or \"}\"")),
        };
        let op = match self.peek().kind {
            Kind::Punctuation(b'=') => MatchOp::Equal,
            Kind::Operator(BinaryOp::NotEqual) => MatchOp::NotEqual,
            Kind::EqualRegex => MatchOp::Regex,
            Kind::NotEqualRegex => MatchOp::NotRegex,
            _ if quoted => return matcher(METRIC_NAME, MatchOp::Equal, &name, token.span).map(|m| (m, true)),
            _ => return Err(self.unexpected(CONTEXT, "label matching operator")),
        };
        self.advance();
        if self.peek().kind != Kind::String {
            return Err(self.unexpected(CONTEXT, "string"));
        }
        let value = self.string()?;
        Ok((matcher(&name, op, &value, self.span_from(token.span.start))?, false))
    }

    /// A primary expression and what follows it.
    pub(super) fn postfix(&mut self) -> Parsed<Tree> {
        let (mut expr, mut height) = self.primary()?;
        loop {
            match self.peek().kind {
                Kind::Punctuation(b'[') => {
                    expr = self.range(expr)?;
                    if matches!(expr.kind, ExprKind::Subquery(_)) {
                        height = self.grow(height, expr.span)?;
                    }
                }
                Kind::Keyword(Keyword::Offset) => self.offset(&mut expr)?,
                Kind::At => self.at_modifier(&mut expr)?,
                Kind::Keyword(keyword @ (Keyword::Anchored | Keyword::Smoothed)) => self.mode(&mut expr, keyword)?,
                _ => return Ok((expr, height)),
            }
            expr.span = self.span_from(expr.span.start);
        }
    }

    fn range(&mut self, expr: Expr) -> Parsed<Expr> {
        let bracket = self.advance();
        let range = self.duration("subquery or range selector", "number, duration, step(), or range()", true)?;
        let start = expr.span.start;
        if self.accept(b':') {
            let step = match self.peek().kind {
                Kind::Punctuation(b']') => None,
                _ => Some(self.duration("subquery selector", "number, duration, step(), range(), or \"]\"", true)?),
            };
            self.expect(b']', "subquery selector")?;
            let subquery = Subquery { expr, range, step, offset: None, at: None };
            return Ok(Expr { kind: ExprKind::Subquery(Box::new(subquery)), span: self.span_from(start) });
        }
        if !self.accept(b']') {
            return Err(self.unexpected("subquery or range", "\":\" or \"]\""));
        }
        let refuse = |message| Err(Mistake::new(Span { start: bracket.span.start, end: self.span_from(start).end }, message));
        match expr.kind {
            ExprKind::Vector(selector) if selector.offset.is_some() => refuse("no offset modifiers allowed before range"),
            ExprKind::Vector(selector) if selector.at.is_some() => refuse("no @ modifiers allowed before range"),
            ExprKind::Vector(selector) => Ok(Expr { kind: ExprKind::Matrix { selector, range }, span: self.span_from(start) }),
            _ => refuse("ranges only allowed for vector selectors"),
        }
    }

    fn offset(&mut self, expr: &mut Expr) -> Parsed<()> {
        self.advance();
        let offset = self.duration("offset", "number, duration, step(), or range()", false)?;
        let Some((slot, _)) = modifiers(expr) else {
            let message = "offset modifier must be preceded by an instant vector selector or range vector selector or a subquery";
            return Err(Mistake::new(expr.span, message));
        };
        if slot.is_some() {
            return Err(Mistake::new(expr.span, "offset may not be set multiple times"));
        }
        *slot = Some(offset);
        Ok(())
    }

    fn at_modifier(&mut self, expr: &mut Expr) -> Parsed<()> {
        const AT: &str = "@";
        const TIMESTAMP: &str = "timestamp";
        self.advance();
        let at = match self.peek().kind {
            Kind::Keyword(keyword @ (Keyword::Start | Keyword::End)) => {
                self.advance();
                for sign in [b'(', b')'] {
                    if !self.accept(sign) {
                        return Err(self.unexpected(AT, TIMESTAMP));
                    }
                }
                if keyword == Keyword::Start { At::Start } else { At::End }
            }
            _ => {
                let seconds = self.signed_number(AT, TIMESTAMP)?;
                let millis = (seconds * 1000.0).round();
                if millis.is_nan() || millis.abs() >= i64::MAX as f64 {
                    return Err(Mistake::new(expr.span, format!("timestamp out of bounds for @ modifier: {}", float(seconds))));
                }
                At::Millis(millis as i64)
            }
        };
        let Some((_, slot)) = modifiers(expr) else {
            let message = "@ modifier must be preceded by an instant vector selector or range vector selector or a subquery";
            return Err(Mistake::new(expr.span, message));
        };
        if slot.is_some() {
            return Err(Mistake::new(expr.span, "@ <timestamp> may not be set multiple times"));
        }
        *slot = Some(at);
        Ok(())
    }

    fn mode(&mut self, expr: &mut Expr, keyword: Keyword) -> Parsed<()> {
        self.advance();
        let (mode, word) = match keyword {
            Keyword::Anchored => (RangeMode::Anchored, "anchored"),
            _ => (RangeMode::Smoothed, "smoothed"),
        };
        let selector = match &mut expr.kind {
            ExprKind::Vector(selector) | ExprKind::Matrix { selector, .. } => selector,
            ExprKind::Subquery(_) => {
                return Err(Mistake::new(expr.span, format!("{word} modifier is not supported for subqueries")));
            }
            _ => {
                let message = format!("{word} modifier must be preceded by an instant or range vector selector");
                return Err(Mistake::new(expr.span, message));
            }
        };
        if selector.mode != RangeMode::Plain && selector.mode != mode {
            return Err(Mistake::new(expr.span, "anchored and smoothed modifiers cannot be used together"));
        }
        selector.mode = mode;
        Ok(())
    }
}

/// Where an expression keeps its offset and its fixed time.
fn modifiers(expr: &mut Expr) -> Option<(&mut Option<Duration>, &mut Option<At>)> {
    match &mut expr.kind {
        ExprKind::Vector(selector) | ExprKind::Matrix { selector, .. } => Some((&mut selector.offset, &mut selector.at)),
        ExprKind::Subquery(subquery) => Some((&mut subquery.offset, &mut subquery.at)),
        _ => None,
    }
}

fn matcher(name: &str, op: MatchOp, value: &str, span: Span) -> Parsed<Matcher> {
    Matcher::new(name, op, value).map_err(|e| Mistake::new(span, e.to_string()))
}
