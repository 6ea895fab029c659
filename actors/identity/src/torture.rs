//! What must hold of whatever stands in a key file, in typed data, or in the answer of a remote signer. The tests try what the
//! fuzzer begins with and what it found, and `make fuzz` tries more.

use crate::{keystore, remote, typed_data};

/// Reads a key file without opening it. What is taken says of which account it is as the file does.
///
/// # Panics
/// When something does not hold.
pub fn key_file(bytes: &[u8]) {
    let Some((json, read)) = keystore::claims(bytes) else { return };
    match read {
        Ok(account) => {
            let said = json.get("address").and_then(serde_json::Value::as_str).filter(|said| !said.is_empty());
            let digits = |text: &str| text.to_lowercase().trim_start_matches("0x").to_owned();
            assert_eq!(account.map(|account| digits(&account.to_string())), said.map(digits));
        }
        Err(why) => assert!(!why.is_empty()),
    }
}

/// Reads typed data. What is taken is hashed alike the next time, and what is shown of it is what was said.
///
/// # Panics
/// When something does not hold.
pub fn typed_data(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match typed_data::read(text) {
        Ok(checked) => {
            assert_eq!((checked.preimage.len(), &checked.preimage[..2]), (66, &[0x19, 0x01][..]));
            let shown = checked.json.to_string();
            let again = typed_data::read(&shown).unwrap_or_else(|why| panic!("{shown}: {why}"));
            assert_eq!((again.preimage, again.facts), (checked.preimage, checked.facts), "{shown}");
        }
        Err(why) => assert!(!why.is_empty()),
    }
}

/// Reads what a remote signer may answer: a signature is one that can be written and read again, a key has one account.
///
/// # Panics
/// When something does not hold.
pub fn signer_answer(bytes: &[u8]) {
    if let Some(signature) = remote::parsed(bytes) {
        let written = format!("\"0x{}\"\n", hex::encode(signature.as_bytes()));
        assert_eq!(remote::parsed(written.as_bytes()), Some(signature), "{written}");
    }
    for key in remote::keys(bytes) {
        let account = remote::address_of(&key);
        let bare = key.trim_start_matches("0x");
        assert!(account.is_none() || bare.len() == 128 || bare.len() == 130, "{key}");
    }
}

#[cfg(test)]
mod tests {
    use nexum_testkit::corpus;

    use super::*;

    #[test]
    fn the_corpora_of_what_others_write_are_answered() {
        corpus("key-file").iter().for_each(|seed| key_file(seed));
        corpus("typed-data").iter().for_each(|seed| typed_data(seed));
        corpus("signer-answer").iter().for_each(|seed| signer_answer(seed));
    }
}
