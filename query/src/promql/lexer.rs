//! Text to tokens, after `promql/parser/lex.go` of Prometheus 3: what a character means depends on whether braces or brackets
//! are open. Tokens are spans; the text of names, strings and numbers stays in the query.

use super::Mistake;
use super::ast::{AggregateOp, BinaryOp, Span};
use super::quote::{quote, quote_char};

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// End of the text.
    Eof,
    /// The lexer stopped here; [`Tokens::mistake`] says why.
    Error,
    /// A name without colon that is not a keyword.
    Identifier,
    /// A name with a colon.
    MetricIdentifier,
    /// In quotes; checked.
    String,
    /// Not yet read.
    Number,
    /// Not yet read.
    Duration,
    /// `( ) { } [ ] , : =`
    Punctuation(u8),
    /// `=~`
    EqualRegex,
    /// `!~`
    NotEqualRegex,
    /// `@`
    At,
    /// Operators, in signs or words.
    Operator(BinaryOp),
    /// Names of aggregations.
    Aggregate(AggregateOp),
    /// Other reserved words.
    Keyword(Keyword),
}

/// Reserved words that are neither operators nor aggregations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keyword {
    Bool,
    By,
    Without,
    On,
    Ignoring,
    GroupLeft,
    GroupRight,
    Fill,
    FillLeft,
    FillRight,
    Offset,
    Anchored,
    Smoothed,
    Start,
    End,
    Step,
    Range,
}

/// One token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub kind: Kind,
    pub span: Span,
}

impl Token {
    /// How error messages name it.
    pub fn describe(self, query: &str) -> String {
        let text = &query[self.span.start as usize..self.span.end as usize];
        let shown = match text.char_indices().nth(10) {
            Some((end, _)) => format!("{}...", quote(&text[..end])),
            None => quote(text),
        };
        match self.kind {
            Kind::Eof => "end of input".into(),
            Kind::Error => "error".into(),
            Kind::Identifier => format!("identifier {}", quote(text)),
            Kind::MetricIdentifier => format!("metric identifier {}", quote(text)),
            Kind::String => format!("string {shown}"),
            Kind::Number => format!("number {shown}"),
            Kind::Duration => format!("duration {shown}"),
            Kind::Punctuation(_) => shown,
            Kind::Operator(_) | Kind::EqualRegex | Kind::NotEqualRegex | Kind::At => format!("<op:{text}>"),
            Kind::Aggregate(_) => format!("<aggr:{text}>"),
            Kind::Keyword(Keyword::Start | Keyword::End | Keyword::Step | Keyword::Range) => shown,
            Kind::Keyword(_) => format!("<{text}>"),
        }
    }
}

/// The tokens of a query; the last one is `Eof` or `Error`.
pub(super) struct Tokens {
    pub tokens: Vec<Token>,
    pub mistake: Option<Mistake>,
}

/// Splits a query. The length has been checked, so that offsets fit.
pub(super) fn tokenize(query: &str) -> Tokens {
    let mut lexer = Lexer {
        query,
        pos: 0,
        start: 0,
        tokens: Vec::new(),
        parens: 0,
        braces: false,
        brackets: false,
        got_colon: false,
        got_duration: false,
    };
    let mut mistake = None;
    loop {
        let result = if lexer.braces {
            lexer.inside_braces()
        } else if lexer.brackets {
            lexer.inside_brackets()
        } else {
            lexer.statement()
        };
        match result {
            Ok(true) => {}
            Ok(false) => break,
            Err(message) => {
                lexer.emit(Kind::Error);
                mistake = Some(Mistake::new(lexer.tokens[lexer.tokens.len() - 1].span, message));
                break;
            }
        }
    }
    Tokens { tokens: lexer.tokens, mistake }
}

struct Lexer<'a> {
    query: &'a str,
    pos: usize,
    start: usize,
    tokens: Vec<Token>,
    parens: usize,
    braces: bool,
    brackets: bool,
    got_colon: bool,
    got_duration: bool,
}

/// Whether there is more, or the message of an error.
type Step = Result<bool, String>;

impl Lexer<'_> {
    fn peek(&self) -> Option<char> {
        self.query[self.pos..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.pos += c.len_utf8();
        Some(c)
    }

    fn accept(&mut self, set: &str) -> bool {
        match self.peek() {
            Some(c) if set.contains(c) => {
                self.pos += c.len_utf8();
                true
            }
            _ => false,
        }
    }

    fn accept_run(&mut self, set: &str) {
        while self.accept(set) {}
    }

    fn emit(&mut self, kind: Kind) -> bool {
        self.tokens.push(Token { kind, span: Span { start: self.start as u32, end: self.pos as u32 } });
        self.start = self.pos;
        true
    }

    /// Skips blanks and comments in front of the next token.
    fn skip_space(&mut self) {
        while let Some(c) = self.peek() {
            if is_space(c) {
                self.pos += 1;
            } else if c == '#' && !self.brackets {
                self.pos += self.query[self.pos..].find('\n').unwrap_or(self.query.len() - self.pos);
            } else {
                break;
            }
        }
        self.start = self.pos;
    }

    fn statement(&mut self) -> Step {
        self.skip_space();
        let Some(c) = self.next() else {
            if self.parens > 0 {
                return Err("unclosed left parenthesis".into());
            }
            self.emit(Kind::Eof);
            return Ok(false);
        };
        let kind = match c {
            ',' => Kind::Punctuation(b','),
            '@' => Kind::At,
            '=' if self.accept("=") => Kind::Operator(BinaryOp::Equal),
            '=' if self.peek() == Some('~') => return Err("unexpected character after '=': '~'".into()),
            '=' => Kind::Punctuation(b'='),
            '!' if self.accept("=") => Kind::Operator(BinaryOp::NotEqual),
            '!' => return Err(format!("unexpected character after '!': {}", self.quoted_next())),
            '<' if self.accept("=") => Kind::Operator(BinaryOp::LessEqual),
            '<' if self.accept("/") => Kind::Operator(BinaryOp::TrimUpper),
            '<' => Kind::Operator(BinaryOp::Less),
            '>' if self.accept("=") => Kind::Operator(BinaryOp::GreaterEqual),
            '>' if self.accept("/") => Kind::Operator(BinaryOp::TrimLower),
            '>' => Kind::Operator(BinaryOp::Greater),
            '0'..='9' => return self.number_or_duration(),
            '.' if self.peek().is_some_and(|c| c.is_ascii_digit()) => return self.number_or_duration(),
            '"' | '\'' | '`' => return self.string(c),
            '{' => {
                self.braces = true;
                Kind::Punctuation(b'{')
            }
            '[' => {
                (self.brackets, self.got_colon, self.got_duration) = (true, false, false);
                Kind::Punctuation(b'[')
            }
            ']' => return Err("unexpected right bracket ']'".into()),
            _ if is_alpha(c) || c == ':' => return Ok(self.word()),
            _ => match self.arithmetic(c)? {
                Some(kind) => kind,
                None => return Err(format!("unexpected character: {}", quote_char(c))),
            },
        };
        Ok(self.emit(kind))
    }

    /// Signs that mean the same inside and outside of brackets.
    fn arithmetic(&mut self, c: char) -> Result<Option<Kind>, String> {
        Ok(Some(match c {
            '+' => Kind::Operator(BinaryOp::Add),
            '-' => Kind::Operator(BinaryOp::Sub),
            '*' => Kind::Operator(BinaryOp::Mul),
            '/' => Kind::Operator(BinaryOp::Div),
            '%' => Kind::Operator(BinaryOp::Mod),
            '^' => Kind::Operator(BinaryOp::Pow),
            '(' => {
                self.parens += 1;
                Kind::Punctuation(b'(')
            }
            ')' => {
                let Some(open) = self.parens.checked_sub(1) else {
                    // The position behind it is the one that Prometheus gives.
                    self.start = self.pos;
                    return Err("unexpected right parenthesis ')'".into());
                };
                self.parens = open;
                Kind::Punctuation(b')')
            }
            _ => return Ok(None),
        }))
    }

    fn inside_brackets(&mut self) -> Step {
        self.skip_space();
        let Some(c) = self.next() else { return Err("unexpected end of input in duration expression".into()) };
        let kind = match c {
            ']' => {
                self.brackets = false;
                Kind::Punctuation(b']')
            }
            ':' if !self.got_duration => return Err("unexpected colon before duration in duration expression".into()),
            ':' if self.got_colon => return Err("unexpected repeated colon in duration expression".into()),
            ':' => {
                self.got_colon = true;
                Kind::Punctuation(b':')
            }
            ',' => Kind::Punctuation(b','),
            '0'..='9' => return self.number_or_duration(),
            '.' if self.peek().is_some_and(|c| c.is_ascii_digit()) => return self.number_or_duration(),
            _ if is_alpha(c) => {
                self.accept_run(WORD);
                let kind = match self.query[self.start..self.pos].to_ascii_lowercase().as_str() {
                    "step" => Kind::Keyword(Keyword::Step),
                    "range" => Kind::Keyword(Keyword::Range),
                    "min_of" | "max_of" => Kind::Identifier,
                    _ => return Err(format!("unexpected character in duration expression: {}", quote_char(c))),
                };
                self.got_duration = true;
                kind
            }
            _ => match self.arithmetic(c)? {
                Some(kind) => kind,
                None => return Err(format!("unexpected character in duration expression: {}", quote_char(c))),
            },
        };
        Ok(self.emit(kind))
    }

    fn inside_braces(&mut self) -> Step {
        self.skip_space();
        let Some(c) = self.next() else { return Err("unexpected end of input inside braces".into()) };
        let kind = match c {
            ',' => Kind::Punctuation(b','),
            '=' if self.accept("~") => Kind::EqualRegex,
            '=' => Kind::Punctuation(b'='),
            '!' if self.accept("~") => Kind::NotEqualRegex,
            '!' if self.accept("=") => Kind::Operator(BinaryOp::NotEqual),
            '!' => return Err(format!("unexpected character after '!' inside braces: {}", self.quoted_next())),
            '"' | '\'' | '`' => return self.string(c),
            '{' => return Err("unexpected left brace '{'".into()),
            '}' => {
                self.braces = false;
                Kind::Punctuation(b'}')
            }
            _ if is_alpha(c) => {
                self.accept_run(WORD);
                Kind::Identifier
            }
            _ => return Err(format!("unexpected character inside braces: {}", quote_char(c))),
        };
        Ok(self.emit(kind))
    }

    fn quoted_next(&mut self) -> String {
        self.next().map_or("end of input".into(), quote_char)
    }

    fn word(&mut self) -> bool {
        while self.accept(WORD) || self.accept(":") {}
        let word = &self.query[self.start..self.pos];
        let kind = match reserved(&word.to_ascii_lowercase()) {
            Some(kind) => kind,
            None if word.contains(':') => Kind::MetricIdentifier,
            None => Kind::Identifier,
        };
        self.emit(kind)
    }

    fn number_or_duration(&mut self) -> Step {
        self.pos = self.start;
        self.got_duration = true;
        if self.scan_number() {
            return Ok(self.emit(Kind::Number));
        }
        if self.scan_rest_of_duration() {
            return Ok(self.emit(Kind::Duration));
        }
        Err(format!("bad number or duration syntax: {}", quote(&self.query[self.start..self.pos])))
    }

    /// Accepts what looks like a number; whether it is one, the parser finds out.
    fn scan_number(&mut self) -> bool {
        let mut digits = "0123456789";
        if self.accept("0") && self.accept("xX") {
            self.accept("_");
            digits = "0123456789abcdefABCDEF";
        }
        let (mut dot, mut exponent) = (false, false);
        while let Some(c) = self.peek() {
            if digits.contains(c) {
                self.accept_run(digits);
            } else if c == '.' {
                self.accept(".");
                if dot || digits.len() > 10 || self.accept("_.") {
                    return false;
                }
                dot = true;
            } else if matches!(c, 'e' | 'E') {
                self.accept("eE");
                if exponent {
                    return false;
                }
                exponent = true;
                self.accept("+-");
                if self.accept("._eE") || self.peek().is_none() {
                    return false;
                }
            } else if c == '_' {
                self.accept("_");
                if self.accept("._eE") || self.peek().is_none() {
                    return false;
                }
            } else {
                break;
            }
        }
        !self.peek().is_some_and(|c| is_alpha(c) || c.is_ascii_digit())
    }

    /// Behind the first digits of a duration.
    fn scan_rest_of_duration(&mut self) -> bool {
        const UNITS: &str = "smhdwy";
        const DIGITS: &str = "0123456789";
        if !self.accept(UNITS) {
            return false;
        }
        self.accept("s");
        while self.accept(DIGITS) {
            self.accept_run(DIGITS);
            if !self.accept("smhdw") {
                return false;
            }
            self.accept("s");
        }
        !self.accept(WORD)
    }

    fn string(&mut self, quote: char) -> Step {
        loop {
            match self.next() {
                None if quote == '`' => return Err("unterminated raw string".into()),
                None => return Err("unterminated quoted string".into()),
                Some(c) if c == quote => return Ok(self.emit(Kind::String)),
                Some('\n') if quote != '`' => return Err("unterminated quoted string".into()),
                Some('\\') if quote != '`' => self.escape(quote)?,
                Some(_) => {}
            }
        }
    }

    fn escape(&mut self, quote: char) -> Result<(), String> {
        let cut_off = || "escape sequence not terminated".to_owned();
        let escape = self.next().ok_or_else(cut_off)?;
        let (digits, radix, max) = match escape {
            'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\' => return Ok(()),
            _ if escape == quote => return Ok(()),
            '0'..='7' => {
                self.pos -= 1;
                (3, 8, 255)
            }
            'x' => (2, 16, 255),
            'u' => (4, 16, u32::from(char::MAX)),
            'U' => (8, 16, u32::from(char::MAX)),
            _ => return Err(format!("unknown escape sequence U+{:04X} {}", u32::from(escape), quote_char(escape))),
        };
        let mut value = 0u32;
        for _ in 0..digits {
            let c = self.next().ok_or_else(cut_off)?;
            let Some(digit) = c.to_digit(radix) else {
                return Err(format!("illegal character U+{:04X} {} in escape sequence", u32::from(c), quote_char(c)));
            };
            value = value.wrapping_mul(radix) | digit;
        }
        if value > max || (0xd800..0xe000).contains(&value) {
            return Err("escape sequence is an invalid Unicode code point".into());
        }
        Ok(())
    }
}

/// What names consist of.
const WORD: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";

fn is_alpha(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn reserved(lower: &str) -> Option<Kind> {
    use AggregateOp as A;
    use BinaryOp as B;
    use Keyword as K;
    Some(match lower {
        "and" => Kind::Operator(B::And),
        "or" => Kind::Operator(B::Or),
        "unless" => Kind::Operator(B::Unless),
        "atan2" => Kind::Operator(B::Atan2),
        "sum" => Kind::Aggregate(A::Sum),
        "avg" => Kind::Aggregate(A::Avg),
        "count" => Kind::Aggregate(A::Count),
        "min" => Kind::Aggregate(A::Min),
        "max" => Kind::Aggregate(A::Max),
        "group" => Kind::Aggregate(A::Group),
        "stddev" => Kind::Aggregate(A::Stddev),
        "stdvar" => Kind::Aggregate(A::Stdvar),
        "topk" => Kind::Aggregate(A::Topk),
        "bottomk" => Kind::Aggregate(A::Bottomk),
        "count_values" => Kind::Aggregate(A::CountValues),
        "quantile" => Kind::Aggregate(A::Quantile),
        "limitk" => Kind::Aggregate(A::Limitk),
        "limit_ratio" => Kind::Aggregate(A::LimitRatio),
        "offset" => Kind::Keyword(K::Offset),
        "anchored" => Kind::Keyword(K::Anchored),
        "smoothed" => Kind::Keyword(K::Smoothed),
        "by" => Kind::Keyword(K::By),
        "without" => Kind::Keyword(K::Without),
        "on" => Kind::Keyword(K::On),
        "ignoring" => Kind::Keyword(K::Ignoring),
        "group_left" => Kind::Keyword(K::GroupLeft),
        "group_right" => Kind::Keyword(K::GroupRight),
        "fill" => Kind::Keyword(K::Fill),
        "fill_left" => Kind::Keyword(K::FillLeft),
        "fill_right" => Kind::Keyword(K::FillRight),
        "bool" => Kind::Keyword(K::Bool),
        "start" => Kind::Keyword(K::Start),
        "end" => Kind::Keyword(K::End),
        "step" => Kind::Keyword(K::Step),
        "range" => Kind::Keyword(K::Range),
        "inf" | "nan" => Kind::Number,
        _ => return None,
    })
}
