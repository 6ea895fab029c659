//! A password made into a key: scrypt and PBKDF2, with what a file claims about them held against bounds first.

use pbkdf2::pbkdf2_hmac;
use serde::Deserialize;
use sha2::Sha256;
use zeroize::{Zeroize as _, Zeroizing};

/// The scrypt cost of files that are written here, as a power of two: what `geth` calls standard is one more.
pub const LOG_N: u8 = 17;
/// The block size and parallelism of files that are written here.
pub const R: u32 = 8;
pub const P: u32 = 1;

/// Memory that a file may ask for, bytes: twice of what wallets commonly write (n = 2^18, r = 8).
const MEMORY_MAX: u64 = 512 << 20;
/// n times r times p: eight times of what wallets commonly write.
const WORK_MAX: u64 = 1 << 24;
/// Rounds of PBKDF2: sixteen times of what wallets commonly write.
const ROUNDS_MAX: u64 = 1 << 22;
const SALT_BYTES_MAX: usize = 1_024;

/// The key that a password becomes: its first half decrypts, its second half tells whether it was the right one.
pub type DerivedKey = Zeroizing<[u8; 32]>;

/// What a file says of its key derivation, within the bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kdf {
    Scrypt { log_n: u8, r: u32, p: u32, salt: Vec<u8> },
    Pbkdf2 { rounds: u32, salt: Vec<u8> },
}

#[derive(Deserialize)]
struct ScryptParams {
    dklen: u64,
    n: u64,
    r: u64,
    p: u64,
    salt: String,
}

#[derive(Deserialize)]
struct Pbkdf2Params {
    dklen: u64,
    c: u64,
    prf: String,
    salt: String,
}

impl Kdf {
    /// Reads the parameters of the named function.
    pub fn read(function: &str, params: &serde_json::Value) -> Result<Self, String> {
        let malformed = |error: serde_json::Error| format!("the parameters of {function}: {error}");
        match function {
            "scrypt" => {
                let ScryptParams { dklen, n, r, p, salt } = ScryptParams::deserialize(params).map_err(malformed)?;
                check_length(dklen)?;
                let memory = 128u64.saturating_mul(n).saturating_mul(r);
                let work = n.saturating_mul(r).saturating_mul(p);
                if !n.is_power_of_two() || n < 2 || r == 0 || p == 0 {
                    return Err(format!("scrypt with n = {n}, r = {r}, p = {p} is not defined"));
                }
                if memory > MEMORY_MAX || work > WORK_MAX {
                    return Err(format!(
                        "scrypt with n = {n}, r = {r}, p = {p} wants more than {} MiB of memory, or more than {WORK_MAX} \
                         for n·r·p: write the key with less",
                        MEMORY_MAX >> 20
                    ));
                }
                let narrow =
                    |value: u64| u32::try_from(value).map_err(|_| "scrypt: a parameter is too large".to_owned());
                let log_n = u8::try_from(n.trailing_zeros()).map_err(|_| "scrypt: n is too large".to_owned())?;
                Ok(Self::Scrypt { log_n, r: narrow(r)?, p: narrow(p)?, salt: read_salt(&salt)? })
            }
            "pbkdf2" => {
                let Pbkdf2Params { dklen, c, prf, salt } = Pbkdf2Params::deserialize(params).map_err(malformed)?;
                check_length(dklen)?;
                if prf != "hmac-sha256" {
                    return Err("pbkdf2 with another function than hmac-sha256".to_owned());
                }
                let rounds = u32::try_from(c).ok().filter(|rounds| *rounds > 0 && c <= ROUNDS_MAX);
                let rounds = rounds.ok_or_else(|| format!("pbkdf2 with {c} rounds: expected 1 to {ROUNDS_MAX}"))?;
                Ok(Self::Pbkdf2 { rounds, salt: read_salt(&salt)? })
            }
            _ => Err("the key derivation is neither scrypt nor pbkdf2".to_owned()),
        }
    }

    /// Takes long, by design.
    pub fn derive(&self, password: &[u8]) -> Result<DerivedKey, String> {
        let mut key = DerivedKey::new([0; 32]);
        match self {
            Self::Pbkdf2 { rounds, salt } => pbkdf2_hmac::<Sha256>(password, salt, *rounds, &mut *key),
            Self::Scrypt { log_n, r, p, salt } => match scrypt::Params::new(*log_n, *r, *p, key.len()) {
                Ok(params) => {
                    scrypt::scrypt(password, salt, &params, &mut *key).map_err(|error| format!("scrypt: {error}"))?;
                }
                // The library keeps to RFC 7914, which wants n below 2^(16 r).
                Err(_) => narrow_scrypt(password, salt, *log_n, *r, *p, &mut key)?,
            },
        }
        Ok(key)
    }
}

/// Both functions give a longer key the same beginning, and only that is used.
fn check_length(dklen: u64) -> Result<(), String> {
    match dklen {
        32..=1_024 => Ok(()),
        _ => Err(format!("a derived key of {dklen} bytes: expected 32")),
    }
}

fn read_salt(salt: &str) -> Result<Vec<u8>, String> {
    match hex::decode(salt.strip_prefix("0x").unwrap_or(salt)) {
        Ok(salt) if salt.len() <= SALT_BYTES_MAX => Ok(salt),
        Ok(salt) => Err(format!("a salt of {} bytes, at most {SALT_BYTES_MAX}", salt.len())),
        Err(_) => Err("the salt is not in hex".to_owned()),
    }
}

type Block = [u32; 16];

/// scrypt for r so small that RFC 7914 leaves it undefined with a usual n. The example of the Web3 Secret Storage definition is of
/// this kind, and so are files that followed it.
fn narrow_scrypt(password: &[u8], salt: &[u8], log_n: u8, r: u32, p: u32, key: &mut DerivedKey) -> Result<(), String> {
    let too_large = |_| "scrypt: there is not so much memory".to_owned();
    let lane_blocks = 2 * usize::try_from(r).map_err(|_| "scrypt: r is too large".to_owned())?;
    let lanes = usize::try_from(p).map_err(|_| "scrypt: p is too large".to_owned())?;
    let mut bytes = Zeroizing::new(vec![0; lanes * lane_blocks * 64]);
    pbkdf2_hmac::<Sha256>(password, salt, 1, &mut bytes);
    let mut table: Vec<Block> = Vec::new();
    table.try_reserve_exact(lane_blocks << log_n).map_err(too_large)?;
    for lane in bytes.chunks_exact_mut(lane_blocks * 64) {
        let words = lane.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        let words: Zeroizing<Vec<u32>> = Zeroizing::new(words.collect());
        let mut blocks: Vec<Block> = Vec::with_capacity(lane_blocks);
        for chunk in words.chunks_exact(16) {
            let mut block = [0; 16];
            block.copy_from_slice(chunk);
            blocks.push(block);
        }
        fill_and_mix(&mut blocks, &mut table, log_n);
        for (word, bytes) in blocks.iter().flatten().zip(lane.chunks_exact_mut(4)) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        blocks.zeroize();
    }
    table.zeroize();
    pbkdf2_hmac::<Sha256>(password, &bytes, 1, &mut **key);
    Ok(())
}

/// Keeps every state on the way there, and goes back through them in an order that they decide.
fn fill_and_mix(blocks: &mut Vec<Block>, table: &mut Vec<Block>, log_n: u8) {
    let (size, mask) = (blocks.len(), (1u64 << log_n) - 1);
    table.clear();
    for _ in 0..=mask {
        table.extend_from_slice(blocks);
        mix_blocks(blocks);
    }
    for _ in 0..=mask {
        let last = blocks[size - 1];
        let index = (u64::from(last[0]) | (u64::from(last[1]) << 32)) & mask;
        // Below n, of which the table has been allocated.
        let at = usize::try_from(index).unwrap_or(0) * size;
        for (block, kept) in blocks.iter_mut().zip(&table[at..at + size]) {
            xor(block, kept);
        }
        mix_blocks(blocks);
    }
}

fn xor(block: &mut Block, other: &Block) {
    for (word, other) in block.iter_mut().zip(other) {
        *word ^= other;
    }
}

/// scryptBlockMix of RFC 7914.
fn mix_blocks(blocks: &mut Vec<Block>) {
    let mut chained = blocks[blocks.len() - 1];
    for block in blocks.iter_mut() {
        xor(&mut chained, block);
        salsa20_8(&mut chained);
        *block = chained;
    }
    let (mut even, odd): (Vec<Block>, Vec<Block>) = blocks.chunks_exact(2).map(|pair| (pair[0], pair[1])).unzip();
    even.extend(odd);
    *blocks = even;
}

/// Eight rounds of Salsa20 (RFC 7914, section 3).
fn salsa20_8(block: &mut Block) {
    const QUARTERS: [[usize; 4]; 8] = [
        [0, 4, 8, 12],
        [5, 9, 13, 1],
        [10, 14, 2, 6],
        [15, 3, 7, 11],
        [0, 1, 2, 3],
        [5, 6, 7, 4],
        [10, 11, 8, 9],
        [15, 12, 13, 14],
    ];
    let before = *block;
    for _ in 0..4 {
        for [a, b, c, d] in QUARTERS {
            block[b] ^= block[a].wrapping_add(block[d]).rotate_left(7);
            block[c] ^= block[b].wrapping_add(block[a]).rotate_left(9);
            block[d] ^= block[c].wrapping_add(block[b]).rotate_left(13);
            block[a] ^= block[d].wrapping_add(block[c]).rotate_left(18);
        }
    }
    for (word, before) in block.iter_mut().zip(before) {
        *word = word.wrapping_add(before);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_file_claims_is_refused_before_anything_is_allocated() {
        let scrypt = |n: u64, r: u64, p: u64| {
            Kdf::read("scrypt", &json!({"dklen": 32, "n": n, "r": r, "p": p, "salt": "00"})).map(|_| ())
        };
        assert_eq!(scrypt(1 << 18, 8, 1), Ok(()));
        assert_eq!(scrypt(1 << 18, 1, 8), Ok(()));
        for (n, r, p) in [
            (1 << 40, 8, 1),
            (1 << 63, 8, 1),
            (1 << 20, 8, 1),
            (1 << 18, 8, 1 << 20),
            (2, 1 << 40, 1),
            (2, 1, u64::MAX),
            (3, 8, 1),
            (1, 8, 1),
            (0, 8, 1),
            (1 << 14, 0, 1),
            (1 << 14, 8, 0),
        ] {
            assert!(scrypt(n, r, p).is_err(), "n = {n}, r = {r}, p = {p}");
        }
        let rounds =
            |c: u64| Kdf::read("pbkdf2", &json!({"dklen": 32, "c": c, "prf": "hmac-sha256", "salt": ""})).map(|_| ());
        assert_eq!(rounds(262_144), Ok(()));
        for c in [0, 1 << 23, 1 << 32, 1 << 60] {
            assert!(rounds(c).is_err(), "{c}");
        }
        let salt = "00".repeat(2_000);
        assert!(Kdf::read("scrypt", &json!({"dklen": 32, "n": 2, "r": 8, "p": 1, "salt": salt})).is_err());
        assert!(Kdf::read("scrypt", &json!({"dklen": 16, "n": 2, "r": 8, "p": 1, "salt": ""})).is_err());
        assert!(Kdf::read("scrypt", &json!({"dklen": 32, "n": -2, "r": 8, "p": 1, "salt": ""})).is_err());
        assert!(Kdf::read("argon2", &json!({})).is_err());
    }

    #[test]
    fn a_narrow_scrypt_gives_what_the_library_gives_where_both_are_defined() {
        for (log_n, r, p) in [(4, 1, 1), (10, 8, 2), (6, 2, 3)] {
            let (mut ours, mut theirs) = (DerivedKey::new([0; 32]), [0; 32]);
            narrow_scrypt(b"password", b"NaCl", log_n, r, p, &mut ours).unwrap();
            let params = scrypt::Params::new(log_n, r, p, 32).unwrap();
            scrypt::scrypt(b"password", b"NaCl", &params, &mut theirs).unwrap();
            assert_eq!(*ours, theirs, "n = 2^{log_n}, r = {r}, p = {p}");
        }
    }
}
