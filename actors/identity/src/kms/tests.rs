//! What services answer, to the last bit.

use alloy_primitives::U256;
use alloy_signer::SignerSync as _;
use alloy_signer_local::PrivateKeySigner;

use super::*;

/// Of secp256k1.
const ORDER: &str = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";

fn key(byte: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_slice(&[byte; 32]).unwrap()
}

fn address(byte: u8) -> Address {
    Address(key(byte).address().into_array())
}

/// A number as DER has it: as short as it goes, and not negative.
fn integer(number: U256) -> Vec<u8> {
    let bytes = number.to_be_bytes_trimmed_vec();
    let zero: &[u8] = if bytes.first().is_none_or(|first| *first >= 0x80) { &[0] } else { &[] };
    let bytes = [zero, bytes.as_slice()].concat();
    [&[2, u8::try_from(bytes.len()).unwrap()][..], &bytes].concat()
}

fn der(r: U256, s: U256) -> Vec<u8> {
    let both = [integer(r), integer(s)].concat();
    [&[0x30, u8::try_from(both.len()).unwrap()][..], &both].concat()
}

#[test]
fn both_values_of_s_come_to_the_lower_one_and_the_right_parity() {
    let order = U256::from_str_radix(ORDER, 16).unwrap();
    let mut parities = [0, 0];
    for number in 0..32u8 {
        let hash = keccak256([number]);
        let wanted = key(7).sign_hash_sync(&hash).unwrap().normalized_s();
        parities[usize::from(wanted.v())] += 1;
        for s in [wanted.s(), order - wanted.s()] {
            assert_eq!(signature(&der(wanted.r(), s), &hash, address(7)), Ok(wanted));
        }
    }
    assert!(parities.iter().all(|count| *count > 0), "{parities:?}");
}

#[test]
fn nothing_else_is_a_signature_of_the_account() {
    let hash = keccak256("hello");
    let order = U256::from_str_radix(ORDER, 16).unwrap();
    let right = key(7).sign_hash_sync(&hash).unwrap();
    let whole = der(right.r(), right.s());
    let why = |bytes: &[u8]| signature(bytes, &hash, address(7)).unwrap_err();
    let beyond = [
        der(U256::ZERO, right.s()),
        der(right.r(), U256::ZERO),
        der(order, right.s()),
        der(right.r(), order),
        der(right.r(), U256::MAX),
    ];
    for bytes in beyond {
        assert!(why(&bytes).contains("no signature"), "{}", hex::encode(&bytes));
    }
    for cut in 0..whole.len() {
        assert!(why(&whole[..cut]).contains("no signature"), "{cut}");
    }
    assert!(why(&[whole.as_slice(), &[0]].concat()).contains("no signature"));
    // The 64 bytes without DER.
    assert!(why(&right.as_bytes()[..64]).contains("no signature"));
    let other = key(8).sign_hash_sync(&hash).unwrap();
    assert!(why(&der(other.r(), other.s())).contains("not one of"));
    let another = key(7).sign_hash_sync(&keccak256("other")).unwrap();
    assert!(why(&der(another.r(), another.s())).contains("not one of"));
}

#[test]
fn errors_are_shown_by_their_names_alone() {
    for (body, name) in [
        (r#"{"__type":"NotFoundException","message":"arn:aws:kms:1:2"}"#, Some("NotFoundException")),
        (r#"{"__type":"com.amazonaws.kms#ThrottlingException"}"#, Some("ThrottlingException")),
        (r#"{"error":{"code":403,"message":"x","status":"PERMISSION_DENIED"}}"#, Some("PERMISSION_DENIED")),
        (r#"{"__type":"two words"}"#, None),
        (r#"{"__type":""}"#, None),
        ("[]", None),
        ("<html>", None),
    ] {
        assert_eq!(error_name(body.as_bytes()).as_deref(), name, "{body}");
    }
    let long = format!(r#"{{"__type":"{}"}}"#, "a".repeat(65));
    assert_eq!(error_name(long.as_bytes()), None);
}
