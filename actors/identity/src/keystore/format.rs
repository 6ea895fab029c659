//! The two kinds of key file: Web3 Secret Storage, version 3, and EIP-2335, version 4.
//!
//! Files of version 4 commonly hold the BLS keys of validators, which are 32 bytes as well and would pass for keys of
//! accounts. Such a file is opened only when it says that it is of an account: by a public key of secp256k1, or by an address.
//! Either must be that of the key.

use aes::{
    Aes128,
    cipher::{KeyIvInit as _, StreamCipher as _},
};
use alloy_primitives::keccak256;
use alloy_signer_local::PrivateKeySigner;
use icu_normalizer::DecomposingNormalizerBorrowed;
use nexum_host_ifaces::Address;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::kdf::Kdf;

/// Bytes of a BLS public key.
const BLS_KEY_BYTES: usize = 48;

/// A key file, read and not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    version: Version,
    pub account: Option<Address>,
    /// Of secp256k1, as the file has it.
    public_key: Option<Vec<u8>>,
    kdf: Kdf,
    iv: [u8; 16],
    ciphertext: [u8; 32],
    checksum: [u8; 32],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V3,
    V4,
}

#[derive(Deserialize)]
struct V3 {
    cipher: String,
    cipherparams: CipherParams,
    ciphertext: String,
    kdf: String,
    kdfparams: Value,
    mac: String,
}

#[derive(Deserialize)]
struct CipherParams {
    iv: String,
}

#[derive(Deserialize)]
struct V4 {
    kdf: Step<Value>,
    checksum: Step<Value>,
    cipher: Step<CipherParams>,
}

#[derive(Deserialize)]
struct Step<P> {
    function: String,
    params: P,
    #[serde(default)]
    message: String,
}

/// What some wallets and editors write before a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The file as JSON, when it is one of a key at all.
pub fn as_key_file(text: &[u8]) -> Option<Value> {
    let file: Value = serde_json::from_slice(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)).ok()?;
    let has = |name: &str| file.get(name).is_some_and(Value::is_object);
    (has("crypto") || has("Crypto")).then_some(file)
}

impl Content {
    /// `Err` says why the key can be none of an account, or none that is understood.
    pub fn read(file: &Value) -> Result<Self, String> {
        let crypto = file.get("crypto").or_else(|| file.get("Crypto")).ok_or("it has no `crypto`")?;
        let account = match file.get("address").and_then(Value::as_str) {
            None | Some("") => None,
            Some(text) => Some(text.to_lowercase().parse()?),
        };
        match file.get("version").and_then(Value::as_u64) {
            Some(3) => Self::read_v3(crypto, account),
            Some(4) => Self::read_v4(crypto, account, file.get("pubkey").and_then(Value::as_str).unwrap_or_default()),
            _ => Err("its version is neither 3 (Web3 Secret Storage) nor 4 (EIP-2335)".to_owned()),
        }
    }

    fn read_v3(crypto: &Value, account: Option<Address>) -> Result<Self, String> {
        let v3 = V3::deserialize(crypto).map_err(|error| format!("`crypto`: {error}"))?;
        check_cipher(&v3.cipher)?;
        Ok(Self {
            version: Version::V3,
            account,
            public_key: None,
            kdf: Kdf::read(&v3.kdf, &v3.kdfparams)?,
            iv: bytes("iv", &v3.cipherparams.iv)?,
            ciphertext: bytes("ciphertext", &v3.ciphertext)?,
            checksum: bytes("mac", &v3.mac)?,
        })
    }

    fn read_v4(crypto: &Value, account: Option<Address>, public_key: &str) -> Result<Self, String> {
        let public_key = hex::decode(public_key.strip_prefix("0x").unwrap_or(public_key));
        let public_key = public_key.map_err(|_| "`pubkey` is not in hex")?;
        if public_key.len() == BLS_KEY_BYTES {
            return Err("it holds the BLS key of a validator, which no account has".to_owned());
        }
        if !matches!(public_key.len(), 0 | 33 | 64 | 65) {
            return Err(format!("`pubkey` has {} bytes, which no key of secp256k1 has", public_key.len()));
        }
        let public_key = Some(public_key).filter(|key| !key.is_empty());
        if public_key.is_none() && account.is_none() {
            return Err("it does not say that its key is of an account: add its `pubkey` or `address`".to_owned());
        }
        Self::read_v4_crypto(crypto, account, public_key)
    }

    fn read_v4_crypto(crypto: &Value, account: Option<Address>, public_key: Option<Vec<u8>>) -> Result<Self, String> {
        let v4 = V4::deserialize(crypto).map_err(|error| format!("`crypto`: {error}"))?;
        check_cipher(&v4.cipher.function)?;
        if v4.checksum.function != "sha256" {
            return Err("its checksum is not sha256".to_owned());
        }
        Ok(Self {
            version: Version::V4,
            account,
            public_key,
            kdf: Kdf::read(&v4.kdf.function, &v4.kdf.params)?,
            iv: bytes("iv", &v4.cipher.params.iv)?,
            ciphertext: bytes("the cipher's message", &v4.cipher.message)?,
            checksum: bytes("the checksum's message", &v4.checksum.message)?,
        })
    }

    /// The 32 bytes, if the password is right.
    pub fn open(&self, password: &str) -> Result<Zeroizing<[u8; 32]>, String> {
        let key = match self.version {
            Version::V3 => self.kdf.derive(password.as_bytes())?,
            Version::V4 => self.kdf.derive(plain(password).as_bytes())?,
        };
        let (cipher_key, check_key) = key.split_at(16);
        let checked = Zeroizing::new([check_key, &self.ciphertext[..]].concat());
        let checksum: [u8; 32] = match self.version {
            Version::V3 => keccak256(checked.as_slice()).0,
            Version::V4 => Sha256::digest(checked.as_slice()).into(),
        };
        if !bool::from(checksum.ct_eq(&self.checksum)) {
            return Err("the password is wrong, or the file is damaged".to_owned());
        }
        let mut secret = Zeroizing::new(self.ciphertext);
        apply_cipher(cipher_key, &self.iv, &mut *secret)?;
        Ok(secret)
    }

    /// Whether the key is that of the account that the file names.
    pub fn check_owner(&self, key: &PrivateKeySigner) -> Result<(), String> {
        let account = Address(key.address().into_array());
        if let Some(named) = self.account.filter(|named| *named != account) {
            return Err(format!("it is said to be of account {named}, and holds the key of {account}"));
        }
        let point = key.public_key();
        let (x, parity) = (&point[..32], 2 + (point[63] & 1));
        let is_its = |named: &[u8]| match named {
            [4, rest @ ..] if rest.len() == 64 => rest == &point[..],
            [first, rest @ ..] if rest.len() == 32 => *first == parity && rest == x,
            all => all == &point[..],
        };
        match self.public_key.as_deref().is_none_or(is_its) {
            true => Ok(()),
            false => Err("its `pubkey` is not that of its key".to_owned()),
        }
    }
}

/// AES-128 in counter mode, which is the same both ways.
pub fn apply_cipher(key: &[u8], iv: &[u8; 16], bytes: &mut [u8]) -> Result<(), String> {
    let cipher = ctr::Ctr128BE::<Aes128>::new_from_slices(key, iv);
    cipher.map_err(|error| format!("aes-128-ctr: {error}"))?.apply_keystream(bytes);
    Ok(())
}

fn check_cipher(cipher: &str) -> Result<(), String> {
    match cipher {
        "aes-128-ctr" => Ok(()),
        _ => Err("its cipher is not aes-128-ctr".to_owned()),
    }
}

fn bytes<const N: usize>(what: &str, text: &str) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), &mut bytes)
        .map(|()| bytes)
        .map_err(|_| format!("{what}: expected {N} bytes in hex"))
}

/// A password as EIP-2335 wants it: in compatibility form, without control characters.
fn plain(password: &str) -> Zeroizing<String> {
    const NORMALIZER: DecomposingNormalizerBorrowed<'static> = DecomposingNormalizerBorrowed::new_nfkd();
    let normal = Zeroizing::new(NORMALIZER.normalize(password).into_owned());
    Zeroizing::new(normal.chars().filter(|c| !c.is_control()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_bls(text: &str) -> Content {
        let file: Value = serde_json::from_str(text).unwrap();
        assert_eq!(Content::read(&file), Err("it holds the BLS key of a validator, which no account has".to_owned()));
        Content::read_v4_crypto(&file["crypto"], None, None).unwrap()
    }

    #[test]
    fn the_examples_of_eip_2335_open_and_are_not_taken_for_accounts() {
        let password = "\u{1d531}\u{1d522}\u{1d530}\u{1d531}\u{1d52d}\u{1d51e}\u{1d530}\u{1d530}\u{1d534}\u{1d52c}\u{1d52f}\u{1d521}\u{1f511}";
        let secret = "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f";
        for text in [
            include_str!("../../../../fixtures/keystores/eip2335-scrypt.json"),
            include_str!("../../../../fixtures/keystores/eip2335-pbkdf2.json"),
        ] {
            let content = read_bls(text);
            assert_eq!(hex::encode(*content.open(password).unwrap()), secret);
            assert_eq!(hex::encode(*content.open("testpassword\u{1f511}\u{7}\u{7f}\u{85}").unwrap()), secret);
            assert!(content.open("testpassword").is_err());
        }
    }

    #[test]
    fn a_file_of_version_4_says_whose_key_it_is_or_is_left_alone() {
        let text = include_str!("../../../../fixtures/keystores/eip2335-pbkdf2.json");
        let read = |change: &dyn Fn(&mut Value)| {
            let mut file: Value = serde_json::from_str(text).unwrap();
            change(&mut file);
            Content::read(&file)
        };
        assert!(read(&|file| file["pubkey"] = "".into()).unwrap_err().contains("does not say"));
        assert!(read(&|file| file["pubkey"] = "0011".into()).unwrap_err().contains("2 bytes"));
        let key = PrivateKeySigner::from_slice(&[7; 32]).unwrap();
        let (address, point) = (key.address().to_string(), hex::encode(key.public_key()));
        let named = read(&|file| (file["pubkey"], file["address"]) = ("".into(), address.as_str().into())).unwrap();
        assert_eq!(named.check_owner(&key), Ok(()));
        let even = u8::from_str_radix(&point[126..], 16).unwrap() % 2;
        for pubkey in [point.clone(), format!("04{point}"), format!("0x{:02x}{}", 2 + even, &point[..64])] {
            let named = read(&|file| file["pubkey"] = pubkey.as_str().into()).unwrap();
            assert_eq!(named.check_owner(&key), Ok(()), "{pubkey}");
            let other = PrivateKeySigner::from_slice(&[8; 32]).unwrap();
            assert!(named.check_owner(&other).is_err());
        }
    }
}
