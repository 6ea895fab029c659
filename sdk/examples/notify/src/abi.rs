//! Signatures of events and functions as Solidity has them, and the values that go with them.
//!
//! Invariant: whatever a contract wrote, decoding ends, and takes no more than a few thousand values of a kilobyte.

use nexum_sdk::alloy::primitives::{U256, keccak256};
use nexum_sdk::hex;

use crate::scanner::{Scanner, Wrong};
use crate::value::{Fields, Kind, Number, Scope, Value};

const CHARS_MAX: usize = 2_048;
const PARAMS_MAX: usize = 32;
/// Types within types.
const DEPTH_MAX: usize = 8;
/// Words of what has a fixed length.
const FIXED_WORDS_MAX: usize = 1_024;
/// Values of one log or answer, those within lists too: offsets may lead to the same bytes again and again.
const VALUES_MAX: usize = 1_024;
/// Bytes that are kept of one string.
const KEPT_BYTES_MAX: usize = 1_024;
const WORD: usize = 32;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    Uint(u16),
    Int(u16),
    Address,
    Flag,
    FixedBytes(u8),
    Bytes,
    Text,
    /// With its length, where that is fixed.
    List(Box<Type>, Option<usize>),
    Tuple(Vec<Type>),
}

impl Type {
    fn canonical(&self) -> String {
        match self {
            Self::Uint(bits) => format!("uint{bits}"),
            Self::Int(bits) => format!("int{bits}"),
            Self::Address => "address".to_owned(),
            Self::Flag => "bool".to_owned(),
            Self::FixedBytes(length) => format!("bytes{length}"),
            Self::Bytes => "bytes".to_owned(),
            Self::Text => "string".to_owned(),
            Self::List(item, None) => format!("{}[]", item.canonical()),
            Self::List(item, Some(length)) => format!("{}[{length}]", item.canonical()),
            Self::Tuple(types) => format!("({})", types.iter().map(Self::canonical).collect::<Vec<_>>().join(",")),
        }
    }

    fn is_dynamic(&self) -> bool {
        match self {
            Self::Bytes | Self::Text | Self::List(_, None) => true,
            Self::List(item, Some(_)) => item.is_dynamic(),
            Self::Tuple(types) => types.iter().any(Self::is_dynamic),
            _ => false,
        }
    }

    /// Words that it takes where it stands; of what is dynamic that is its offset.
    fn words(&self) -> usize {
        match self {
            dynamic if dynamic.is_dynamic() => 1,
            Self::List(item, Some(length)) => item.words().saturating_mul(*length),
            Self::Tuple(types) => types.iter().map(Self::words).fold(0, usize::saturating_add),
            _ => 1,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Uint(_) | Self::Int(_) => Kind::Number,
            Self::Address => Kind::Bytes(Some(20)),
            Self::Flag => Kind::Flag,
            Self::FixedBytes(length) => Kind::Bytes(Some(usize::from(*length))),
            Self::Bytes => Kind::Bytes(None),
            Self::Text => Kind::Text,
            Self::List(..) | Self::Tuple(_) => Kind::List,
        }
    }

    /// Whether a topic holds its hash and not itself.
    fn is_hashed(&self) -> bool {
        matches!(self, Self::Bytes | Self::Text | Self::List(..) | Self::Tuple(_))
    }

    /// A value of it as people write it, as one word.
    pub fn word(&self, text: &str) -> Result<[u8; WORD], String> {
        let mut word = [0; WORD];
        let bytes = || hex::decode(text).map_err(|error| error.message().to_owned());
        match self {
            Self::Uint(_) | Self::Int(_) => {
                let mut scanner = Scanner::new(text, CHARS_MAX).map_err(|wrong| wrong.message)?;
                let number = Number::scan(&mut scanner).map_err(|wrong| wrong.message)?;
                let number = number.unsigned().filter(|_| scanner.peek().is_none());
                word = number.ok_or_else(|| format!("`{text}` is no number from 0 on"))?.to_be_bytes();
            }
            Self::Flag if text == "true" || text == "false" => word[WORD - 1] = u8::from(text == "true"),
            Self::Address => match bytes()? {
                address if address.len() == 20 => word[12..].copy_from_slice(&address),
                _ => return Err(format!("`{text}` is no address: 0x and 40 digits")),
            },
            Self::FixedBytes(length) => match bytes()? {
                given if given.len() == usize::from(*length) => word[..given.len()].copy_from_slice(&given),
                given => return Err(format!("`{text}` has {} bytes, and not {length}", given.len())),
            },
            other => return Err(format!("`{text}` is no {} of one word", other.canonical())),
        }
        Ok(word)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// `arg0`, `arg1`, … where the signature gives none.
    pub name: String,
    pub ty: Type,
    pub indexed: bool,
}

/// An event or a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    pub name: String,
    pub params: Vec<Param>,
    /// What a function returns.
    pub returns: Vec<Param>,
}

/// The names and kinds of the values of some parameters.
pub fn scope(params: &[Param]) -> Scope {
    let kind =
        |param: &Param| if param.indexed && param.ty.is_hashed() { Kind::Bytes(Some(WORD)) } else { param.ty.kind() };
    Scope(params.iter().map(|param| (param.name.clone(), kind(param))).collect())
}

impl Signature {
    /// Reads `Transfer(address indexed from, address indexed to, uint256 value)`, with or without `event` before it.
    pub fn event(text: &str) -> Result<Self, Wrong> {
        let mut parser = Parser { scanner: Scanner::new(text, CHARS_MAX)?, depth: 0 };
        let signature = parser.head("event")?;
        parser.end()?;
        match signature.params.iter().filter(|param| param.indexed).count() {
            0..=3 => Ok(signature),
            more => Err(Wrong { column: 1, message: format!("{more} parameters are indexed, at most 3 can be") }),
        }
    }

    /// Reads `latestAnswer() view returns (int256 answer)`, with or without `function` before it.
    pub fn function(text: &str) -> Result<Self, Wrong> {
        let mut parser = Parser { scanner: Scanner::new(text, CHARS_MAX)?, depth: 0 };
        let mut signature = parser.head("function")?;
        while parser.scanner.eat_word(&["external", "public", "view", "pure"]).is_some() {}
        if parser.scanner.eat_word(&["returns"]).is_none() {
            return Err(parser
                .scanner
                .wrong("what it returns is missing, as in: totalSupply() returns (uint256 supply)"));
        }
        signature.returns = parser.params()?;
        parser.end()?;
        Ok(signature)
    }

    /// The hash of the name and the types: topic 0 of an event, and in its first four bytes the selector of a function.
    pub fn hash(&self) -> [u8; WORD] {
        let types: Vec<_> = self.params.iter().map(|param| param.ty.canonical()).collect();
        keccak256(format!("{}({})", self.name, types.join(","))).0
    }

    /// The values of a log; none when it is one of another event, among them one of the same hash with other parameters
    /// indexed.
    pub fn log(&self, hash: &[u8; WORD], topics: &[Vec<u8>], data: &[u8]) -> Option<Fields> {
        let (first, mut indexed) = (topics.first()?, topics.get(1..)?.iter());
        let count = self.params.iter().filter(|param| param.indexed).count();
        if first != hash || indexed.len() != count {
            return None;
        }
        let mut of_topics = Vec::new();
        for param in self.params.iter().filter(|param| param.indexed) {
            let topic = indexed.next()?;
            of_topics.push(match param.ty.is_hashed() {
                true => Value::Bytes(topic.clone()),
                false => Decoder::new(topic).value(&param.ty, 0)?,
            });
        }
        let types: Vec<_> = self.params.iter().filter(|param| !param.indexed).map(|param| &param.ty).collect();
        let (mut of_topics, mut of_data) = (of_topics.into_iter(), Decoder::new(data).tuple(&types, 0)?.into_iter());
        let mut fields = Fields::default();
        for param in &self.params {
            fields.push(&param.name, if param.indexed { of_topics.next()? } else { of_data.next()? });
        }
        Some(fields)
    }

    /// The values of an answer; none when it does not have what this function returns.
    pub fn answer(&self, data: &[u8]) -> Option<Fields> {
        let types: Vec<_> = self.returns.iter().map(|param| &param.ty).collect();
        let values = Decoder::new(data).tuple(&types, 0)?;
        Some(Fields(self.returns.iter().map(|param| param.name.clone()).zip(values).collect()))
    }
}

struct Parser {
    scanner: Scanner,
    depth: usize,
}

impl Parser {
    /// The name and the parameters, after the word that may be before them.
    fn head(&mut self, before: &str) -> Result<Signature, Wrong> {
        self.scanner.eat_word(&[before]);
        self.scanner.blanks();
        let name = self.scanner.word();
        if name.is_empty() || !self.scanner.is_at("(") {
            return Err(self
                .scanner
                .wrong("expected a name and `(`, as in: Transfer(address indexed from, uint256 value)"));
        }
        Ok(Signature { name, params: self.params()?, returns: Vec::new() })
    }

    fn end(&mut self) -> Result<(), Wrong> {
        self.scanner.eat_word(&["anonymous"]).map_or(Ok(()), |_| {
            Err(self.scanner.wrong("an anonymous event has no hash to know it by; leave `signature` out"))
        })?;
        self.scanner.blanks();
        self.scanner.eat(";");
        match self.scanner.peek() {
            None => Ok(()),
            Some(c) => Err(self.scanner.wrong(format!("expected the end, and there is `{c}`"))),
        }
    }

    fn params(&mut self) -> Result<Vec<Param>, Wrong> {
        let mut params: Vec<Param> = Vec::new();
        let column = self.scanner.column();
        self.list(|parser| {
            let ty = parser.ty()?;
            let mut indexed = false;
            while let Some(word) = parser.scanner.eat_word(&["indexed", "memory", "calldata", "payable"]) {
                indexed |= word == "indexed";
            }
            parser.scanner.blanks();
            let unnamed = format!("arg{}", params.len());
            let name = Some(parser.scanner.word()).filter(|name| !name.is_empty()).unwrap_or(unnamed);
            params.push(Param { name, ty, indexed });
            Ok(())
        })?;
        let words = params.iter().map(|param| param.ty.words()).fold(0, usize::saturating_add);
        if params.len() > PARAMS_MAX || words > FIXED_WORDS_MAX {
            let message = format!("more than {PARAMS_MAX} parameters, or {FIXED_WORDS_MAX} words of them");
            return Err(Wrong { column, message });
        }
        Ok(params)
    }

    /// `(`, items with `,` between them, and `)`.
    fn list(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), Wrong>) -> Result<(), Wrong> {
        self.scanner.blanks();
        if !self.scanner.eat("(") {
            return Err(self.scanner.wrong("expected `(`"));
        }
        self.scanner.blanks();
        if self.scanner.eat(")") {
            return Ok(());
        }
        loop {
            item(self)?;
            self.scanner.blanks();
            if self.scanner.eat(")") {
                return Ok(());
            }
            if !self.scanner.eat(",") {
                return Err(self.scanner.wrong("expected `,` or `)`"));
            }
        }
    }

    fn ty(&mut self) -> Result<Type, Wrong> {
        self.scanner.blanks();
        let column = self.scanner.column();
        if self.depth == DEPTH_MAX {
            return Err(self.scanner.wrong(format!("more than {DEPTH_MAX} types within each other")));
        }
        self.depth += 1;
        let word = self.scanner.word();
        let mut ty = if word == "tuple" || (word.is_empty() && self.scanner.is_at("(")) {
            let mut types = Vec::new();
            self.list(|parser| {
                types.push(parser.ty()?);
                // A member may have a name, which nothing asks for.
                parser.scanner.blanks();
                parser.scanner.word();
                Ok(())
            })?;
            Some(Type::Tuple(types)).filter(|ty| ty.words() > 0)
        } else {
            elementary(&word)
        };
        while self.scanner.eat("[") {
            let length = self.scanner.take(|c| c.is_ascii_digit());
            let fixed = if length.is_empty() { None } else { length.parse().ok().filter(|length| *length > 0) };
            if !self.scanner.eat("]") || fixed.is_some() == length.is_empty() {
                return Err(self.scanner.wrong("expected `[]`, or `[3]` with another length from 1 on"));
            }
            ty = ty.map(|item| Type::List(Box::new(item), fixed));
        }
        self.depth -= 1;
        let ty = ty.filter(|ty| nested(ty) <= DEPTH_MAX && ty.words() <= FIXED_WORDS_MAX);
        ty.ok_or_else(|| {
            let message = format!("`{word}` is no type that can be read; contracts are `address`, enums `uint8`");
            Wrong { column, message }
        })
    }
}

/// How many types are within each other.
fn nested(ty: &Type) -> usize {
    match ty {
        Type::List(item, _) => nested(item) + 1,
        Type::Tuple(types) => types.iter().map(nested).max().unwrap_or_default() + 1,
        _ => 1,
    }
}

fn elementary(word: &str) -> Option<Type> {
    let bits = |digits: &str| match digits {
        "" => Some(256),
        digits => digits.parse::<u16>().ok().filter(|bits| (8..=256).contains(bits) && bits.is_multiple_of(8)),
    };
    match word {
        "address" => Some(Type::Address),
        "bool" => Some(Type::Flag),
        "bytes" => Some(Type::Bytes),
        "string" => Some(Type::Text),
        _ => {
            if let Some(digits) = word.strip_prefix("uint") {
                return bits(digits).map(Type::Uint);
            }
            if let Some(digits) = word.strip_prefix("int") {
                return bits(digits).map(Type::Int);
            }
            let length = word.strip_prefix("bytes")?.parse().ok()?;
            (1..=32).contains(&length).then_some(Type::FixedBytes(length))
        }
    }
}

/// Reads values out of bytes that nobody vouches for; nothing where they are not what they should be.
struct Decoder<'a> {
    data: &'a [u8],
    values_left: usize,
}

impl<'a> Decoder<'a> {
    fn new(data: &'a [u8]) -> Self {
        Self { data, values_left: VALUES_MAX }
    }

    fn word(&self, at: usize) -> Option<&'a [u8; WORD]> {
        self.data.get(at..at.checked_add(WORD)?)?.try_into().ok()
    }

    /// A length or an offset.
    fn size(&self, at: usize) -> Option<usize> {
        let (zeros, number) = self.word(at)?.split_at(WORD - 8);
        let number = u64::from_be_bytes(number.try_into().ok()?);
        zeros.iter().all(|byte| *byte == 0).then_some(())?;
        usize::try_from(number).ok().filter(|size| *size <= self.data.len())
    }

    /// Values that stand one after the other from `base` on, to which their offsets are relative.
    fn tuple(&mut self, types: &[&Type], base: usize) -> Option<Vec<Value>> {
        let mut at = base;
        let mut values = Vec::new();
        for ty in types {
            let place = if ty.is_dynamic() { base.checked_add(self.size(at)?)? } else { at };
            values.push(self.value(ty, place)?);
            at = at.checked_add(ty.words().checked_mul(WORD)?)?;
        }
        Some(values)
    }

    /// The value whose encoding begins at `at`.
    fn value(&mut self, ty: &Type, at: usize) -> Option<Value> {
        self.values_left = self.values_left.checked_sub(1)?;
        Some(match ty {
            Type::Uint(_) => Value::Number(Number::new(false, U256::from_be_bytes(*self.word(at)?))),
            Type::Int(_) => Value::Number(Number::from_word(U256::from_be_bytes(*self.word(at)?))),
            Type::Address => Value::Bytes(self.word(at)?[12..].to_vec()),
            Type::Flag => Value::Flag(self.word(at)?.iter().any(|byte| *byte != 0)),
            Type::FixedBytes(length) => Value::Bytes(self.word(at)?[..usize::from(*length)].to_vec()),
            Type::Bytes => Value::Bytes(self.string(at)?.to_vec()),
            Type::Text => Value::Text(String::from_utf8_lossy(self.string(at)?).into_owned()),
            Type::List(item, Some(length)) => Value::List(self.tuple(&vec![&**item; *length], at)?),
            Type::List(item, None) => {
                let length = self.size(at).filter(|length| *length <= self.values_left)?;
                Value::List(self.tuple(&vec![&**item; length], at.checked_add(WORD)?)?)
            }
            Type::Tuple(types) => Value::List(self.tuple(&types.iter().collect::<Vec<_>>(), at)?),
        })
    }

    /// The beginning of a string.
    fn string(&self, at: usize) -> Option<&'a [u8]> {
        let (length, begin) = (self.size(at)?, at.checked_add(WORD)?);
        let whole = self.data.get(begin..begin.checked_add(length)?)?;
        Some(&whole[..length.min(KEPT_BYTES_MAX)])
    }
}

#[cfg(test)]
mod tests;
