//! Durations in brackets and behind `offset`: literals and arithmetic.

use super::super::ast::{BinaryOp, Duration, DurationExpr};
use super::super::duration::{MAX_MILLIS, seconds_to_millis};
use super::super::lexer::{Keyword, Kind};
use super::{Mistake, Parsed, Parser, UNARY_POWER, power};

impl Parser<'_> {
    /// A duration. In brackets (`inside`) it may be any arithmetic and must be positive; outside, only what is in parentheses
    /// may, since `foo offset 2 ^ 2` is `(foo offset 2) ^ 2`.
    pub(super) fn duration(&mut self, context: &str, expected: &str, inside: bool) -> Parsed<Duration> {
        let start = self.peek().span.start;
        if !self.starts_duration() {
            return Err(self.unexpected(context, expected));
        }
        self.duration_operators = 0;
        let expr = if inside { self.duration_expr(0)? } else { self.duration_unary(inside)? };
        let span = self.span_from(start);
        let refuse = |message: String| Err(Mistake::new(span, message));
        match expr {
            DurationExpr::Seconds(seconds) if inside && seconds <= 0.0 => refuse("duration must be greater than 0".into()),
            DurationExpr::Seconds(seconds) => match seconds_to_millis(seconds) {
                Ok(0) if inside => refuse("duration must be greater than 0".into()),
                Ok(millis) => Ok(Duration::Millis(millis)),
                Err(message) => refuse(message),
            },
            expr => Ok(Duration::Computed(Box::new(expr))),
        }
    }

    fn starts_duration(&self) -> bool {
        match self.peek().kind {
            Kind::Number | Kind::Duration | Kind::Punctuation(b'(') => true,
            Kind::Operator(BinaryOp::Add | BinaryOp::Sub) => true,
            Kind::Keyword(Keyword::Step | Keyword::Range) => true,
            Kind::Identifier => self.text(self.peek()).to_ascii_lowercase().ends_with("_of"),
            _ => false,
        }
    }

    fn duration_expr(&mut self, min_power: u8) -> Parsed<DurationExpr> {
        self.nested(|parser| parser.duration_expr_inner(min_power))
    }

    fn duration_expr_inner(&mut self, min_power: u8) -> Parsed<DurationExpr> {
        let mut lhs = self.duration_unary(true)?;
        while let Kind::Operator(op @ (BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div | BinaryOp::Mod | BinaryOp::Pow)) =
            self.peek().kind
        {
            let bound = power(op);
            if bound < min_power {
                break;
            }
            let sign = self.advance().span;
            let rhs = self.duration_expr(if op == BinaryOp::Pow { bound } else { bound + 1 })?;
            if rhs == DurationExpr::Seconds(0.0) && matches!(op, BinaryOp::Div | BinaryOp::Mod) {
                let message = if op == BinaryOp::Div { "division by zero" } else { "modulo by zero" };
                return Err(Mistake::new(sign, message));
            }
            self.duration_operators = self.grow(self.duration_operators, sign)?;
            lhs = DurationExpr::Binary(op, Box::new(lhs), Box::new(rhs));
        }
        Ok(lhs)
    }

    /// An operand with its signs. A sign takes in only a power, as for numbers; outside of brackets not even that.
    fn duration_unary(&mut self, inside: bool) -> Parsed<DurationExpr> {
        let Kind::Operator(sign @ (BinaryOp::Add | BinaryOp::Sub)) = self.peek().kind else { return self.duration_primary() };
        self.advance();
        let operand = if inside { self.duration_expr(UNARY_POWER + 1)? } else { self.duration_primary()? };
        Ok(match (sign, operand) {
            (BinaryOp::Add, operand) => operand,
            (_, DurationExpr::Seconds(seconds)) => DurationExpr::Seconds(-seconds),
            (_, operand) => DurationExpr::Neg(Box::new(operand)),
        })
    }

    fn duration_primary(&mut self) -> Parsed<DurationExpr> {
        let token = self.peek();
        match token.kind {
            Kind::Number | Kind::Duration => {
                let seconds = self.number()?;
                if seconds.is_nan() || seconds.abs() > MAX_MILLIS as f64 / 1000.0 {
                    return Err(Mistake::new(token.span, "duration out of range"));
                }
                Ok(DurationExpr::Seconds(seconds))
            }
            Kind::Punctuation(b'(') => {
                self.advance();
                let inner = self.duration_expr(0)?;
                self.expect(b')', "duration expression")?;
                Ok(inner)
            }
            Kind::Keyword(keyword @ (Keyword::Step | Keyword::Range)) => {
                self.advance();
                self.expect(b'(', "duration expression")?;
                self.expect(b')', "duration expression")?;
                Ok(if keyword == Keyword::Step { DurationExpr::Step } else { DurationExpr::Range })
            }
            Kind::Identifier => self.duration_min_max(),
            _ => Err(self.unexpected("duration expression", "number, duration, step(), or range()")),
        }
    }

    fn duration_min_max(&mut self) -> Parsed<DurationExpr> {
        let token = self.peek();
        let min = match self.text(token).to_ascii_lowercase().as_str() {
            "min_of" => true,
            "max_of" => false,
            _ => return Err(self.unexpected("duration expression", "number, duration, step(), or range()")),
        };
        self.advance();
        self.expect(b'(', "duration expression")?;
        let x = Box::new(self.duration_expr(0)?);
        self.expect(b',', "duration expression")?;
        let y = Box::new(self.duration_expr(0)?);
        self.expect(b')', "duration expression")?;
        Ok(if min { DurationExpr::Min(x, y) } else { DurationExpr::Max(x, y) })
    }
}
