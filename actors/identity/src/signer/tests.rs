//! What is signed here equals what eth-account signs: `fixtures/identity/generate.py` makes the table.

use nexum_host_ifaces::interfaces::identity::port::SigningPayload;
use serde_json::Value;

use super::*;
use crate::request::of_payload;

#[tokio::test]
async fn messages_and_typed_data_are_signed_as_eth_account_signs_them() {
    let table: Value = serde_json::from_str(include_str!("../../../../fixtures/identity/signatures.json")).unwrap();
    let account: Address = table["account"].as_str().unwrap().parse().unwrap();
    let signer = local([0x46; 32]);
    let mut cases = Vec::new();
    for case in table["messages"].as_array().unwrap() {
        let bytes = hex::decode(case["data"].as_str().unwrap()).unwrap();
        cases.push((SigningPayload::Message(bytes), case));
    }
    for case in table["typed_data"].as_array().unwrap() {
        cases.push((SigningPayload::TypedData(case["data"].to_string()), case));
    }
    assert!(cases.len() >= 14);
    for (payload, case) in cases {
        let (_, preimage) = of_payload(account, payload).unwrap();
        assert_eq!(keccak256(&preimage).to_string(), case["hash"].as_str().unwrap(), "{case}");
        let signature = sign(&*signer, account, &preimage).await.unwrap();
        assert_eq!(format!("0x{}", hex::encode(signature.as_bytes())), case["signature"].as_str().unwrap(), "{case}");
        let other = sign(&*signer, Address([1; 20]), &preimage).await.unwrap_err();
        assert!(other.message.contains("not one of 0x0101"), "{}", other.message);
    }
}
