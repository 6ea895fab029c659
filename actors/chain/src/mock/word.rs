//! Values in fixtures: fixed words, and words that follow the block number. Deterministic in seed and block.

use std::fmt;

use alloy::primitives::keccak256;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// Bytes written as 0x-hex.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HexBytes(pub Vec<u8>);

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_hex(&text).map(Self).map_err(de::Error::custom)
    }
}

fn parse_hex(text: &str) -> Result<Vec<u8>, String> {
    let digits = text.strip_prefix("0x").ok_or_else(|| format!("`{text}` is not 0x-hex"))?;
    hex::decode(digits).map_err(|error| format!("`{text}` is not 0x-hex: {error}"))
}

/// A 32-byte word of call results, topics or log data.
#[derive(Debug, Clone, PartialEq)]
pub enum Word {
    /// Left-padded.
    Fixed([u8; 32]),
    Block,
    Timestamp,
    Generated(Generator),
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Generator {
    /// Swings around `center`.
    Sine {
        center: i64,
        amplitude: i64,
        period_blocks: u64,
    },
    /// A bounded random walk around `center`: up to `step` per block, never further than `amplitude`.
    Walk {
        center: i64,
        amplitude: i64,
        step: i64,
    },
    /// One of these, at random.
    Pick(Vec<Word>),
    Uniform {
        min: u64,
        max: u64,
    },
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordVisitor;
        impl<'de> Visitor<'de> for WordVisitor {
            type Value = Word;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer, 0x-hex, \"block\", \"timestamp\", or a table sine, walk, pick or uniform")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Word, E> {
                Ok(Word::Fixed(signed(value)))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Word, E> {
                Ok(Word::Fixed(unsigned(value)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Word, E> {
                match text {
                    "block" => return Ok(Word::Block),
                    "timestamp" => return Ok(Word::Timestamp),
                    _ => {}
                }
                let bytes = parse_hex(text).map_err(E::custom)?;
                let start = 32_usize
                    .checked_sub(bytes.len())
                    .ok_or_else(|| E::custom(format!("`{text}` is longer than 32 bytes")))?;
                let mut word = [0; 32];
                word[start..].copy_from_slice(&bytes);
                Ok(Word::Fixed(word))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Word, A::Error> {
                Generator::deserialize(MapAccessDeserializer::new(map)).map(Word::Generated)
            }
        }
        deserializer.deserialize_any(WordVisitor)
    }
}

/// Where a word is asked for.
#[derive(Debug, Clone, Copy)]
pub struct At {
    pub seed: u64,
    pub number: u64,
    pub timestamp_s: u64,
    /// Tells words of one block apart.
    pub salt: u64,
}

impl At {
    /// A random number that depends on nothing but this place.
    pub fn random(&self) -> u64 {
        let mut bytes = [0; 24];
        for (chunk, part) in bytes.chunks_mut(8).zip([self.seed, self.number, self.salt]) {
            chunk.copy_from_slice(&part.to_be_bytes());
        }
        let hash = keccak256(bytes);
        u64::from_be_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]])
    }
}

fn signed(value: i64) -> [u8; 32] {
    let mut word = if value < 0 { [0xff; 32] } else { [0; 32] };
    word[24..].copy_from_slice(&value.to_be_bytes());
    word
}

fn unsigned(value: u64) -> [u8; 32] {
    let mut word = [0; 32];
    word[24..].copy_from_slice(&value.to_be_bytes());
    word
}

impl Word {
    pub fn value(&self, at: At) -> [u8; 32] {
        match self {
            Self::Fixed(word) => *word,
            Self::Block => unsigned(at.number),
            Self::Timestamp => unsigned(at.timestamp_s),
            Self::Generated(generator) => generator.value(at),
        }
    }
}

impl Generator {
    fn value(&self, at: At) -> [u8; 32] {
        match self {
            Self::Sine { center, amplitude, period_blocks } => {
                let period = (*period_blocks).max(1);
                let phase = (at.number % period) as f64 / period as f64;
                let swing = (phase * std::f64::consts::TAU).sin() * *amplitude as f64;
                signed(center.saturating_add(swing as i64))
            }
            Self::Walk { center, amplitude, step } => {
                // Sums of a few waves with random phases: looks like a walk, needs no memory of earlier blocks.
                let wave = |index: u64, period: f64| {
                    let phase = At { number: 0, salt: index, ..at }.random() as f64 / u64::MAX as f64;
                    ((at.number as f64 / period + phase) * std::f64::consts::TAU).sin()
                };
                let period = (*amplitude as f64 / (*step).max(1) as f64).max(1.0) * 4.0;
                let mix = 0.5 * wave(1, period) + 0.3 * wave(2, period / 3.1) + 0.2 * wave(3, period / 7.3);
                signed(center.saturating_add((mix * *amplitude as f64) as i64))
            }
            Self::Pick(words) => match usize::try_from(at.random() % (words.len().max(1) as u64)) {
                Ok(index) => words.get(index).map_or([0; 32], |word| word.value(at)),
                Err(_) => [0; 32],
            },
            Self::Uniform { min, max } => unsigned(min + at.random() % (max.saturating_sub(*min) + 1)),
        }
    }
}
