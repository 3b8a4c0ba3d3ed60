//! Tokens to a syntax tree: recursive descent with operator precedence, after the grammar of Prometheus 3.14. Types are not
//! looked at here.

mod duration;
mod selector;

use super::ast::{Aggregate, AggregateOp, Binary, BinaryOp, Cardinality, Expr, ExprKind, Matching, Span, VectorSelector};
use super::functions::function;
use super::lexer::{Keyword, Kind, Token, Tokens, tokenize};
use super::quote::{parse_number, quote, unquote};
use super::{MAX_HEIGHT, MAX_NESTING, MAX_QUERY_BYTES, Mistake};

/// Parses a whole text as an expression.
pub(super) fn parse_expression(query: &str) -> Result<Expr, Mistake> {
    let mut parser = Parser::new(query)?;
    if parser.peek().kind == Kind::Eof {
        return Err(Mistake::new(Span::default(), "no expression found in input"));
    }
    let (expr, _) = parser.expr(0)?;
    match parser.peek().kind {
        Kind::Eof => Ok(expr),
        _ => Err(parser.unexpected("", "")),
    }
}

/// Parses a whole text as a selector.
pub(super) fn parse_selector(text: &str) -> Result<VectorSelector, Mistake> {
    let mut parser = Parser::new(text)?;
    let token = parser.peek();
    if !parser.at_punctuation(b'{') && !parser.is_metric_name(token) {
        return Err(parser.unexpected("", ""));
    }
    let selector = parser.vector_selector()?;
    match parser.peek().kind {
        Kind::Eof => Ok(selector),
        _ => Err(parser.unexpected("", "")),
    }
}

type Parsed<T> = Result<T, Mistake>;

/// A subtree and its height.
type Tree = (Expr, u32);

struct Parser<'a> {
    query: &'a str,
    tokens: Tokens,
    /// Index of the token that comes next.
    at: usize,
    nesting: u32,
    /// How many aggregations' arguments the next token is in.
    aggregations: u32,
    /// Operators in the duration that is being parsed.
    duration_operators: u32,
}

/// Binding power of unary signs: that of multiplication, so that `-a ^ b` is `-(a ^ b)`.
const UNARY_POWER: u8 = 5;

/// Binding power of an operator. All but `^` group to the left.
fn power(op: BinaryOp) -> u8 {
    match op {
        BinaryOp::Or => 1,
        BinaryOp::And | BinaryOp::Unless => 2,
        BinaryOp::Equal | BinaryOp::NotEqual | BinaryOp::Greater | BinaryOp::GreaterEqual => 3,
        BinaryOp::Less | BinaryOp::LessEqual | BinaryOp::TrimUpper | BinaryOp::TrimLower => 3,
        BinaryOp::Add | BinaryOp::Sub => 4,
        BinaryOp::Mul | BinaryOp::Div | BinaryOp::Mod | BinaryOp::Atan2 => UNARY_POWER,
        BinaryOp::Pow => 6,
    }
}

impl<'a> Parser<'a> {
    fn new(query: &'a str) -> Parsed<Self> {
        if query.len() > MAX_QUERY_BYTES {
            let message = format!("query of {} bytes is longer than the {MAX_QUERY_BYTES} that are allowed", query.len());
            return Err(Mistake::new(Span::default(), message));
        }
        Ok(Self { query, tokens: tokenize(query), at: 0, nesting: 0, aggregations: 0, duration_operators: 0 })
    }

    fn peek(&self) -> Token {
        self.peek_behind(0)
    }

    /// The token `n` behind the next; the last one if there are not so many.
    fn peek_behind(&self, n: usize) -> Token {
        let tokens = &self.tokens.tokens;
        tokens[(self.at + n).min(tokens.len() - 1)]
    }

    fn advance(&mut self) -> Token {
        let token = self.peek();
        self.at = (self.at + 1).min(self.tokens.tokens.len() - 1);
        token
    }

    fn text(&self, token: Token) -> &'a str {
        &self.query[token.span.start as usize..token.span.end as usize]
    }

    fn at_punctuation(&self, sign: u8) -> bool {
        self.peek().kind == Kind::Punctuation(sign)
    }

    fn accept(&mut self, sign: u8) -> bool {
        let hit = self.at_punctuation(sign);
        if hit {
            self.advance();
        }
        hit
    }

    fn accept_keyword(&mut self, keyword: Keyword) -> bool {
        let hit = self.peek().kind == Kind::Keyword(keyword);
        if hit {
            self.advance();
        }
        hit
    }

    fn expect(&mut self, sign: u8, context: &str) -> Parsed<Token> {
        if self.at_punctuation(sign) {
            return Ok(self.advance());
        }
        Err(self.unexpected(context, &quote(char::from(sign).encode_utf8(&mut [0; 4]))))
    }

    /// That the next token does not belong there; or what the lexer had to say.
    fn unexpected(&mut self, context: &str, expected: &str) -> Mistake {
        let token = self.peek();
        if token.kind == Kind::Error
            && let Some(mistake) = self.tokens.mistake.take()
        {
            return mistake;
        }
        let context = if context.is_empty() && self.aggregations > 0 { "aggregation" } else { context };
        let mut message = format!("unexpected {}", token.describe(self.query));
        for (word, text) in [(" in ", context), (", expected ", expected)] {
            if !text.is_empty() {
                message.push_str(word);
                message.push_str(text);
            }
        }
        Mistake::new(token.span, message)
    }

    fn span_from(&self, start: u32) -> Span {
        let end = if self.at == 0 { start } else { self.tokens.tokens[self.at - 1].span.end };
        Span { start, end }
    }

    /// Checks the height of a tree that grew by a level.
    fn grow(&self, height: u32, span: Span) -> Parsed<u32> {
        if height >= MAX_HEIGHT {
            return Err(Mistake::new(span, format!("the expression is more than {MAX_HEIGHT} levels high; split it into several queries")));
        }
        Ok(height + 1)
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.nesting >= MAX_NESTING {
            return Err(Mistake::new(self.peek().span, format!("the expression is nested more than {MAX_NESTING} levels deep")));
        }
        self.nesting += 1;
        let result = parse(self);
        self.nesting -= 1;
        result
    }

    /// An expression whose operators bind at least as strong as `min_power`.
    fn expr(&mut self, min_power: u8) -> Parsed<Tree> {
        self.nested(|parser| parser.expr_inner(min_power))
    }

    fn expr_inner(&mut self, min_power: u8) -> Parsed<Tree> {
        let (mut lhs, mut height) = self.unary()?;
        while let Kind::Operator(op) = self.peek().kind {
            let bound = power(op);
            if bound < min_power {
                break;
            }
            self.advance();
            let (return_bool, matching) = self.matching()?;
            let (rhs, rhs_height) = self.expr(if op == BinaryOp::Pow { bound } else { bound + 1 })?;
            let span = Span { start: lhs.span.start, end: rhs.span.end };
            height = self.grow(height.max(rhs_height), span)?;
            let binary = Binary { op, lhs, rhs, return_bool, matching: Some(matching) };
            lhs = Expr { kind: ExprKind::Binary(Box::new(binary)), span };
        }
        Ok((lhs, height))
    }

    fn unary(&mut self) -> Parsed<Tree> {
        let sign = self.peek();
        let negate = match sign.kind {
            Kind::Operator(BinaryOp::Sub) => true,
            Kind::Operator(BinaryOp::Add) => false,
            _ => return self.postfix(),
        };
        self.advance();
        let (operand, height) = self.expr(UNARY_POWER + 1)?;
        let span = Span { start: sign.span.start, end: operand.span.end };
        if let ExprKind::Number(value) = operand.kind {
            return Ok((Expr { kind: ExprKind::Number(if negate { -value } else { value }), span }, height));
        }
        let height = self.grow(height, span)?;
        Ok((Expr { kind: ExprKind::Unary { negate, expr: Box::new(operand) }, span }, height))
    }

    fn primary(&mut self) -> Parsed<Tree> {
        let token = self.peek();
        let start = token.span.start;
        let called = self.peek_behind(1).kind == Kind::Punctuation(b'(');
        let leaf = |kind, span| Ok((Expr { kind, span }, 1));
        match token.kind {
            Kind::Number | Kind::Duration => {
                let value = self.number()?;
                leaf(ExprKind::Number(value), token.span)
            }
            Kind::String => {
                let text = self.string()?;
                leaf(ExprKind::String(text), token.span)
            }
            Kind::Punctuation(b'(') => {
                self.advance();
                let (inner, height) = self.expr(0)?;
                if !self.accept(b')') {
                    return Err(self.unexpected("", ""));
                }
                let span = self.span_from(start);
                Ok((Expr { kind: ExprKind::Paren(Box::new(inner)), span }, self.grow(height, span)?))
            }
            Kind::Aggregate(op) if called || self.starts_grouping(1) => self.aggregate(op),
            Kind::Identifier if called => self.call(),
            Kind::Keyword(Keyword::Start | Keyword::End | Keyword::Step | Keyword::Range) if called => self.call(),
            _ if token.kind == Kind::Punctuation(b'{') || self.is_metric_name(token) => {
                let selector = self.vector_selector()?;
                leaf(ExprKind::Vector(selector), self.span_from(start))
            }
            _ => Err(self.unexpected("", "")),
        }
    }

    /// The value of a number or duration token, in seconds.
    fn number(&mut self) -> Parsed<f64> {
        let token = self.advance();
        let text = self.text(token);
        let value = match token.kind {
            Kind::Duration => super::duration::parse_duration(text).map(|ms| ms as f64 / 1000.0),
            _ => parse_number(text),
        };
        value.map_err(|message| Mistake::new(token.span, message))
    }

    fn string(&mut self) -> Parsed<String> {
        let token = self.advance();
        unquote(self.text(token)).map_err(|message| Mistake::new(token.span, message))
    }

    /// A number with any signs in front.
    fn signed_number(&mut self, context: &str, expected: &str) -> Parsed<f64> {
        let mut negate = false;
        if let Kind::Operator(op @ (BinaryOp::Add | BinaryOp::Sub)) = self.peek().kind {
            negate = op == BinaryOp::Sub;
            self.advance();
        }
        match self.peek().kind {
            Kind::Number | Kind::Duration => self.number().map(|v| if negate { -v } else { v }),
            _ => Err(self.unexpected(context, expected)),
        }
    }

    /// Arguments in parentheses, and the height of the highest.
    fn arguments(&mut self) -> Parsed<(Vec<Expr>, u32)> {
        self.expect(b'(', "")?;
        let (mut args, mut height) = (Vec::new(), 0);
        if self.accept(b')') {
            return Ok((args, height));
        }
        loop {
            let (arg, arg_height) = self.expr(0)?;
            args.push(arg);
            height = height.max(arg_height);
            if self.accept(b')') {
                return Ok((args, height));
            }
            let comma = self.peek();
            if !self.accept(b',') {
                return Err(self.unexpected("", ""));
            }
            if !self.starts_expression() && self.peek().kind != Kind::Error {
                return Err(Mistake::new(comma.span, "trailing commas not allowed in function call args"));
            }
        }
    }

    fn starts_expression(&self) -> bool {
        let token = self.peek();
        match token.kind {
            Kind::Number | Kind::Duration | Kind::String | Kind::Punctuation(b'(' | b'{') => true,
            Kind::Operator(BinaryOp::Add | BinaryOp::Sub) => true,
            _ => self.is_metric_name(token),
        }
    }

    fn call(&mut self) -> Parsed<Tree> {
        let name = self.advance();
        let (args, height) = self.arguments()?;
        let written = self.text(name);
        let lower = written.to_ascii_lowercase();
        let spelled = if name.kind == Kind::Identifier { written } else { &lower };
        let function =
            function(spelled).ok_or_else(|| Mistake::new(name.span, format!("unknown function with name {}", quote(written))))?;
        let span = self.span_from(name.span.start);
        Ok((Expr { kind: ExprKind::Call { function, args }, span }, self.grow(height, span)?))
    }

    fn starts_grouping(&self, behind: usize) -> bool {
        matches!(self.peek_behind(behind).kind, Kind::Keyword(Keyword::By | Keyword::Without))
    }

    fn aggregate(&mut self, op: AggregateOp) -> Parsed<Tree> {
        let start = self.advance().span.start;
        let before = self.grouping()?;
        if !self.at_punctuation(b'(') {
            return Err(self.unexpected("aggregation", ""));
        }
        self.aggregations += 1;
        let (mut args, height) = self.arguments()?;
        self.aggregations -= 1;
        let grouping = match before {
            Some(grouping) => Some(grouping),
            None => self.grouping()?,
        };
        let span = self.span_from(start);
        let (without, labels) = grouping.unwrap_or_default();
        let with_param = matches!(
            op,
            AggregateOp::Topk
                | AggregateOp::Bottomk
                | AggregateOp::CountValues
                | AggregateOp::Quantile
                | AggregateOp::Limitk
                | AggregateOp::LimitRatio
        );
        let wanted = if with_param { 2 } else { 1 };
        let count = args.len();
        let (Some(expr), true) = (args.pop(), count == wanted) else {
            let message = match count {
                0 => "no arguments for aggregate expression provided".to_owned(),
                _ => format!("wrong number of arguments for aggregate expression provided, expected {wanted}, got {count}"),
            };
            return Err(Mistake::new(span, message));
        };
        let aggregate = Aggregate { op, param: args.pop(), expr, without, labels };
        Ok((Expr { kind: ExprKind::Aggregate(Box::new(aggregate)), span }, self.grow(height, span)?))
    }

    /// `by (...)` or `without (...)`: whether it is without, and the labels.
    fn grouping(&mut self) -> Parsed<Option<(bool, Vec<String>)>> {
        if !self.starts_grouping(0) {
            return Ok(None);
        }
        let without = self.advance().kind == Kind::Keyword(Keyword::Without);
        Ok(Some((without, sorted(self.labels()?))))
    }

    fn labels(&mut self) -> Parsed<Vec<String>> {
        const CONTEXT: &str = "grouping opts";
        self.expect(b'(', CONTEXT)?;
        let mut labels = Vec::new();
        while !self.accept(b')') {
            let token = self.peek();
            match token.kind {
                Kind::String => labels.push(self.string()?),
                Kind::Identifier | Kind::Aggregate(_) | Kind::Keyword(_) => {
                    labels.push(self.text(token).to_owned());
                    self.advance();
                }
                Kind::Operator(_) if is_word(self.text(token)) => {
                    labels.push(self.text(token).to_owned());
                    self.advance();
                }
                _ => return Err(self.unexpected(CONTEXT, "label")),
            }
            if !self.accept(b',') && !self.at_punctuation(b')') {
                return Err(self.unexpected(CONTEXT, "\",\" or \")\""));
            }
        }
        Ok(labels)
    }

    /// What may stand behind an operator: `bool`, `on`, `group_left`, `fill`.
    fn matching(&mut self) -> Parsed<(bool, Matching)> {
        let return_bool = self.accept_keyword(Keyword::Bool);
        let mut matching = Matching::default();
        if let Kind::Keyword(keyword @ (Keyword::On | Keyword::Ignoring)) = self.peek().kind {
            self.advance();
            matching.on = keyword == Keyword::On;
            matching.labels = sorted(self.labels()?);
            if let Kind::Keyword(side @ (Keyword::GroupLeft | Keyword::GroupRight)) = self.peek().kind {
                self.advance();
                matching.cardinality = if side == Keyword::GroupLeft { Cardinality::ManyToOne } else { Cardinality::OneToMany };
                if self.at_punctuation(b'(') {
                    matching.include = self.labels()?;
                }
            }
        }
        // A metric may be called `fill` as well.
        while self.peek_behind(1).kind == Kind::Punctuation(b'(') {
            let Kind::Keyword(keyword @ (Keyword::Fill | Keyword::FillLeft | Keyword::FillRight)) = self.peek().kind else { break };
            let (left, right) = (keyword != Keyword::FillRight, keyword != Keyword::FillLeft);
            if (left && matching.fill_lhs.is_some()) || (right && matching.fill_rhs.is_some()) {
                return Err(self.unexpected("", ""));
            }
            self.advance();
            self.advance();
            let value = Some(self.signed_number("fill modifier", "number")?);
            self.expect(b')', "fill modifier")?;
            matching.fill_lhs = if left { value } else { matching.fill_lhs };
            matching.fill_rhs = if right { value } else { matching.fill_rhs };
        }
        Ok((return_bool, matching))
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
}

fn sorted(mut labels: Vec<String>) -> Vec<String> {
    labels.sort();
    labels.dedup();
    labels
}
