//! The methods of JSON-RPC that are a wallet's: nodes leave them to whoever has the keys, and so are they answered by
//! `identity`, for a module to which that is granted.

mod transaction;

use serde_json::{Value, value::RawValue};

use crate::{
    Address, HostError, HostErrorKind,
    bounded::{MESSAGE_BYTES_MAX, cut},
    call::{Call, not_in_query},
    grants::Grant,
    interfaces::{
        chain::grant::CAPABILITY,
        identity::{self, port::SigningPayload},
    },
};

/// Those that are answered here.
const METHODS: [&str; 4] = ["eth_accounts", "personal_sign", "eth_signTypedData_v4", "eth_sendTransaction"];

/// JSON-RPC 2.0, section 5.1.
const CODE_INVALID_PARAMS: i32 = -32602;

impl Call {
    /// What `identity` answers to a method of wallets; nothing to any other method, or where `identity` is not granted.
    pub(super) async fn wallet(
        &mut self,
        chain_id: u64,
        method: &str,
        params: &str,
    ) -> Option<Result<String, HostError>> {
        if self.grants().get(identity::CAPABILITY) == Some(Grant::NotInQuery) && METHODS.contains(&method) {
            return Some(Err(not_in_query(CAPABILITY.name(), &format!("`{method}`"))));
        }
        self.grants().has_identity().ok()?;
        Some(match method {
            "eth_accounts" => self.accounts(Some(chain_id)).await.map(|accounts| {
                let accounts: Vec<Value> = accounts.iter().map(|account| Value::String(account.to_string())).collect();
                Value::Array(accounts).to_string()
            }),
            "personal_sign" => self.signed(message(params)).await,
            "eth_signTypedData_v4" => self.signed(typed_data(params)).await,
            "eth_sendTransaction" => self.send_transaction(chain_id, params).await,
            _ => return None,
        })
    }

    async fn signed(&mut self, asked: Result<(Address, SigningPayload), String>) -> Result<String, HostError> {
        let (account, payload) = asked.map_err(invalid_params)?;
        let signature = self.sign(account, payload).await?;
        Ok(Value::String(format!("0x{}", hex::encode(signature))).to_string())
    }
}

fn invalid_params(wrong: String) -> HostError {
    let wrong = cut(wrong, MESSAGE_BYTES_MAX);
    HostError::new(CAPABILITY.name(), HostErrorKind::InvalidInput, wrong).with_code(CODE_INVALID_PARAMS)
}

/// The two parameters, each with its JSON text as it is written: a number in it may be larger than any that is read.
fn two<'a>(params: &'a str, expected: &str) -> Result<[&'a RawValue; 2], String> {
    serde_json::from_str(params).map_err(|_| format!("expected the parameters [{expected}]"))
}

fn string(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

fn account(text: &str) -> Result<Address, String> {
    let account = Some(text).filter(|text| text.starts_with("0x")).and_then(|text| text.parse().ok());
    account.ok_or_else(|| "the account is no address: expected 0x and 40 hex digits".to_owned())
}

/// Of `personal_sign`.
fn message(params: &str) -> Result<(Address, SigningPayload), String> {
    let [data, by] = two(params, "message, account")?;
    let text = string(data).ok_or("the message is no string")?;
    let message = match text.strip_prefix("0x") {
        Some(digits) => hex::decode(digits).map_err(|_| "the message begins with 0x and is no hex")?,
        None => text.into_bytes(),
    };
    Ok((account(&string(by).unwrap_or_default())?, SigningPayload::Message(message)))
}

/// Of `eth_signTypedData_v4`: the data as an object, or as a string which has its JSON text.
fn typed_data(params: &str) -> Result<(Address, SigningPayload), String> {
    let [by, data] = two(params, "account, typed data")?;
    let text = match (string(data), data.get()) {
        (Some(text), _) => text,
        (None, object) if object.starts_with('{') => object.to_owned(),
        _ => return Err("the typed data is neither an object nor a string".to_owned()),
    };
    Ok((account(&string(by).unwrap_or_default())?, SigningPayload::TypedData(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY: &str = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266";

    #[test]
    fn what_is_to_be_signed_is_read_as_wallets_read_it() {
        let by: Address = BY.parse().unwrap();
        let of = |data: &str| message(&format!("[{data}, \"{BY}\"]"));
        assert_eq!(of("\"0x68690a\""), Ok((by, SigningPayload::Message(b"hi\n".to_vec()))));
        assert_eq!(of("\"h\u{e9}\""), Ok((by, SigningPayload::Message("h\u{e9}".as_bytes().to_vec()))));
        assert_eq!(of("\"\""), Ok((by, SigningPayload::Message(Vec::new()))));
        let typed = |data: &str| typed_data(&format!("[\"{BY}\", {data}]"));
        let expected = Ok((by, SigningPayload::TypedData("{\"a\":123456789012345678901234567890}".to_owned())));
        assert_eq!(typed("{\"a\":123456789012345678901234567890}"), expected);
        assert_eq!(typed("\"{\\\"a\\\":123456789012345678901234567890}\""), expected);

        for wrong in ["\"0x6\"", "\"0xzz\"", "7", "null"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        for wrong in ["7", "[]", "null"] {
            assert!(typed(wrong).is_err(), "{wrong}");
        }
        for params in ["", "{}", "[]", "[\"0x\"]", "[\"0x\", \"0x12\"]", "[\"0x\", 7]"] {
            assert!(message(params).is_err(), "{params}");
        }
        let third = format!("[\"0x\", \"{BY}\", \"password\"]");
        assert_eq!(message(&third).unwrap_err(), "expected the parameters [message, account]");
        assert_eq!(message(&format!("[\"0x\", \"{}\"]", &BY[2..])), message("[\"0x\", \"0x12\"]"));
    }
}
