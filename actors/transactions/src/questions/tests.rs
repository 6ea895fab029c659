//! What answers are read as.

use super::*;

#[test]
fn numbers_are_read_and_written_as_quantities() {
    assert_eq!(hex(255), "0xff");
    assert_eq!(number(&json!("0x10")), Some(16));
    assert_eq!(number(&json!(16)), None);
    assert_eq!(number(&json!("0x7fffffffffffffff")), Some(u64::MAX / 2));
    for wrong in [json!("0x8000000000000000"), json!("0x"), json!("0x1g"), json!("10"), json!(null), json!(["0x1"])] {
        assert_eq!(number(&wrong), None, "{wrong}");
    }
    assert_eq!(wei(&json!("0x")), None);
    assert_eq!(wei(&json!(format!("0x{}", "f".repeat(40)))), Some(u128::MAX));
    let mut value = [0; 32];
    assert_eq!(quantity(&value), "0x0");
    value[30] = 1;
    assert_eq!(quantity(&value), "0x100");
}

#[test]
fn what_endpoints_told_is_read_and_the_others_have_no_say() {
    let answer = |endpoint: &str, answer: Answer| EndpointAnswer { endpoint: endpoint.to_owned(), answer };
    let failed = || Err(HostError::new("chain", HostErrorKind::InvalidInput, "header not found"));
    let count = |count: &Value| number(count).ok_or("an account without a nonce");
    let five = answer("b", Ok("\"0x5\"".to_owned()));
    let answers = vec![answer("a", failed()), five, answer("c", Ok("{}".to_owned()))];
    assert_eq!(told(answers, count), Ok(vec![("b".to_owned(), 5)]));
    assert_eq!(told(vec![answer("a", failed())], count), Err("header not found".to_owned()));
    assert_eq!(told(Vec::new(), count), Err("no endpoint is connected".to_owned()));
}

#[test]
fn only_a_revert_is_a_revert() {
    let error =
        |kind, code, message: &str| HostError::new("chain", kind, message).with_code(code).with_data("0x08c379a0");
    let reverted = failed(&error(HostErrorKind::InvalidInput, 3, "execution reverted: no"));
    assert_eq!(
        reverted,
        Simulated::Reverts { message: "execution reverted: no".into(), data: Some("0x08c379a0".into()), agreed: false }
    );
    let poor = failed(&error(HostErrorKind::InvalidInput, -32000, "insufficient funds for transfer"));
    assert_eq!(poor, Simulated::Poor);
    for (kind, message) in [(HostErrorKind::Timeout, "execution reverted"), (HostErrorKind::InvalidInput, "no archive")]
    {
        assert!(matches!(failed(&error(kind, -32000, message)), Simulated::Unknown(_)));
    }
    let long =
        error(HostErrorKind::InvalidInput, 3, "execution reverted").with_data(format!("0x{}", "00".repeat(5_000)));
    let Simulated::Reverts { data: Some(data), .. } = failed(&long) else { panic!() };
    assert_eq!(data.len(), 2 + 2 * REVERT_BYTES_MAX);
}

#[test]
fn a_receipt_without_a_block_is_none() {
    let of = Hash([1; 32]);
    assert_eq!(mined(&Value::Null, &of), Ok(None));
    assert_eq!(mined(&json!({ "transactionHash": "0x", "blockHash": null }), &of), Ok(None));
    let hash = of.to_string();
    let mut receipt = json!({
        "transactionHash": hash, "blockHash": hash, "blockNumber": "0x5", "gasUsed": "0x5208", "status": "0x0",
        "effectiveGasPrice": "0x7", "contractAddress": null,
    });
    let read = mined(&receipt, &of).unwrap().unwrap();
    assert_eq!((read.block_number, read.succeeded, read.gas_used, read.effective_gas_price), (5, false, 21_000, 7));
    let other = Hash([2; 32]);
    assert_eq!(mined(&receipt, &other), Err(format!("a receipt of {hash} instead of {other}")));
    receipt["blockNumber"] = Value::Null;
    assert_eq!(mined(&receipt, &of), Err("a receipt without blockNumber".to_owned()));
}
