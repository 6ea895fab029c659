//! An order as the order book takes it, and the UID that it has there: known before it is placed.

use alloy_primitives::{Address, B256, U256, address, hex, keccak256};
use alloy_sol_types::{Eip712Domain, SolStruct};
use serde::Deserialize;

/// The settlement contract, which is at the same address on every chain.
const SETTLEMENT: Address = address!("9008D19f58AAbD9eD0D60971565AA8510560ab41");

mod signed {
    alloy_sol_types::sol! {
        struct Order {
            address sellToken;
            address buyToken;
            address receiver;
            uint256 sellAmount;
            uint256 buyAmount;
            uint32 validTo;
            bytes32 appData;
            uint256 feeAmount;
            string kind;
            bool partiallyFillable;
            string sellTokenBalance;
            string buyTokenBalance;
        }
    }
}

/// An order, and whose it is, if it says so.
pub struct Order {
    signed: signed::Order,
    owner: Option<Address>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    sell_token: String,
    buy_token: String,
    receiver: Option<String>,
    sell_amount: String,
    buy_amount: String,
    valid_to: u32,
    app_data: String,
    fee_amount: String,
    kind: String,
    partially_fillable: bool,
    sell_token_balance: Option<String>,
    buy_token_balance: Option<String>,
    from: Option<String>,
}

impl Order {
    pub fn read(json: &[u8]) -> Result<Self, String> {
        let written: Written = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let owner = written.from.as_deref().map(|from| account("from", from)).transpose()?;
        let receiver = written.receiver.as_deref().map(|receiver| account("receiver", receiver)).transpose()?;
        let balance = |balance: Option<String>| balance.unwrap_or_else(|| "erc20".to_owned());
        let signed = signed::Order {
            sellToken: account("sellToken", &written.sell_token)?,
            buyToken: account("buyToken", &written.buy_token)?,
            receiver: receiver.unwrap_or_default(),
            sellAmount: amount("sellAmount", &written.sell_amount)?,
            buyAmount: amount("buyAmount", &written.buy_amount)?,
            validTo: written.valid_to,
            appData: app_data(&written.app_data),
            feeAmount: amount("feeAmount", &written.fee_amount)?,
            kind: written.kind,
            partiallyFillable: written.partially_fillable,
            sellTokenBalance: balance(written.sell_token_balance),
            buyTokenBalance: balance(written.buy_token_balance),
        };
        Ok(Self { signed, owner })
    }

    /// Digest, owner and end of an order in one; unknown when it does not say whose it is.
    pub fn uid(&self, chain_id: u64) -> Option<String> {
        let owner = self.owner?;
        let digest = self.signed.eip712_signing_hash(&domain(chain_id));
        let uid = [digest.as_slice(), owner.as_slice(), &self.signed.validTo.to_be_bytes()].concat();
        Some(hex::encode_prefixed(uid))
    }
}

fn domain(chain_id: u64) -> Eip712Domain {
    let (name, version) = ("Gnosis Protocol".into(), "v2".into());
    Eip712Domain::new(Some(name), Some(version), Some(U256::from(chain_id)), Some(SETTLEMENT), None)
}

/// The hash that an order is signed with: of the document, unless the hash is what is given.
fn app_data(text: &str) -> B256 {
    text.parse().unwrap_or_else(|_| keccak256(text))
}

fn account(field: &str, text: &str) -> Result<Address, String> {
    text.parse().map_err(|_| format!("`{field}`: expected an address"))
}

fn amount(field: &str, text: &str) -> Result<U256, String> {
    U256::from_str_radix(text, 10).map_err(|_| format!("`{field}`: expected a decimal number in quotes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the contract has them: `TYPE_HASH` of `GPv2Order`, and `domainSeparator` of the settlement contract on chain 1.
    #[test]
    fn an_order_is_hashed_as_the_settlement_contract_does() {
        let type_hash = "0xd5a25ba2e97094ad7d83dc28a6572da797d6b3e7fc6663bd93efb789fc17e489";
        assert_eq!(keccak256(signed::Order::eip712_encode_type().as_bytes()).to_string(), type_hash);
        let separator = "0xc078f884a2676e1345748b1feace7b0abee5d00ecadb6e574dcdd109a63e8943";
        assert_eq!(domain(1).separator().to_string(), separator);
    }

    const ORDER: &str = r#"{
        "sellToken": "0x5fbdb2315678afecb367f032d93f642f64180aa3",
        "buyToken": "0x90f79bf6eb2c4f870365e785982e1f101e93b906",
        "sellAmount": "1000", "buyAmount": "2000", "feeAmount": "0", "validTo": 258,
        "appData": "{}", "kind": "sell", "partiallyFillable": false,
        "from": "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266"
    }"#;

    #[test]
    fn a_uid_ends_with_owner_and_time_and_depends_on_everything_that_is_signed() {
        let uid = |json: &str| Order::read(json.as_bytes()).unwrap().uid(1);
        let first = uid(ORDER).unwrap();
        assert_eq!(first.len(), 2 + 2 * 56);
        assert!(first.ends_with("f39fd6e51aad88f6f4ce6ab8827279cfffb9226600000102"), "{first}");
        assert_ne!(uid(&ORDER.replace("2000", "2001")), Some(first.clone()));
        let hashed = ORDER.replace("{}", &keccak256("{}").to_string());
        assert_eq!(uid(&hashed), Some(first), "the document and its hash are the same");
        assert_eq!(uid(&ORDER.replace("\"from\"", "\"whose\"")), None);
    }

    #[test]
    fn what_is_wrong_with_an_order_is_told() {
        let wrong = |from: &str, to: &str| Order::read(ORDER.replace(from, to).as_bytes()).err().unwrap();
        assert_eq!(wrong("\"1000\"", "\"0x10\""), "`sellAmount`: expected a decimal number in quotes");
        assert_eq!(wrong("0x5fbd", "5f"), "`sellToken`: expected an address");
        assert!(wrong("\"kind\"", "\"sort\"").starts_with("missing field `kind`"));
    }
}
