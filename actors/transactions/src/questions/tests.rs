//! What answers are read as.

use nexum_host_ifaces::Address;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::*;

/// Endpoints, each with the price that it tells; one that is dear knows no base fee.
struct Endpoints(Vec<u64>);

const DEAR: u64 = 900_000;
/// The price of one that tells no history.
const SILENT: u64 = 2;

fn says(price: u64, method: &str) -> String {
    match method {
        "eth_getBlockByNumber" if price == DEAR => r#"{"number":"0x5"}"#.to_owned(),
        "eth_getBlockByNumber" => r#"{"number":"0x5","baseFeePerGas":"0xa"}"#.to_owned(),
        "eth_feeHistory" if price != SILENT => {
            format!(r#"{{"baseFeePerGas":["0xa","{:#x}"],"reward":[["{price:#x}"]]}}"#, price + 10)
        }
        "eth_gasPrice" => format!(r#""{price:#x}""#),
        _ => r#""0x1""#.to_owned(),
    }
}

impl Actor for Endpoints {
    type Msg = ChainMsg;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<ChainMsg>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, _: ActorRef<ChainMsg>, message: ChainMsg, (): &mut ()) -> Result<(), ActorProcessingErr> {
        let answer = |(at, price): (usize, &u64), method: &str| EndpointAnswer {
            endpoint: at.to_string(),
            answer: Ok(says(*price, method)),
        };
        match message {
            // The first one is the best.
            ChainMsg::Request { method, reply, .. } => reply.send(Ok(says(self.0[0], &method)))?,
            ChainMsg::RequestEach { method, reply, .. } => {
                reply.send(self.0.iter().enumerate().map(|told| answer(told, &method)).collect())?;
            }
            ChainMsg::Status(reply) => reply.send(ChainStatus {
                chain_id: 1,
                name: "fake".to_owned(),
                connected: true,
                head: Some((5, Hash([5; 32]))),
                safe: None,
                finalized: None,
                blocks_behind: 0,
                endpoints: Vec::new(),
                waiting_modules: 0,
                reorgs: 0,
                learnt: Vec::new(),
                waits: Vec::new(),
                more_waits: 0,
            })?,
            other => return Err(format!("not expected: {other:?}").into()),
        }
        Ok(())
    }
}

#[tokio::test]
async fn what_one_endpoint_of_several_says_of_prices_is_not_paid() {
    for (prices, expected) in [
        (vec![DEAR, 3, 4], Market::Dynamic { base_fee: 14, priority: 4 }),
        (vec![3, DEAR, 4], Market::Dynamic { base_fee: 14, priority: 4 }),
        // It may have two do without a base fee, and not make them pay more.
        (vec![DEAR, 3], Market::Legacy { gas_price: 3 }),
        (vec![4, 3], Market::Dynamic { base_fee: 13, priority: 3 }),
        (vec![SILENT, 800_000], Market::Dynamic { base_fee: 12, priority: 1 }),
        (vec![7], Market::Dynamic { base_fee: 17, priority: 7 }),
    ] {
        let port = Port::new("chain");
        let (actor, ended) = Actor::spawn(None, Endpoints(prices.clone()), ()).await.unwrap();
        port.bind(actor.clone());
        let chain = Chain { port, module: "m".into() };
        let facts = chain.facts(&QueueKey { chain_id: 1, account: Address([9; 20]) }).await.unwrap();
        assert_eq!(facts.market, expected, "{prices:?}");
        actor.stop(None);
        ended.await.unwrap();
    }
}

#[test]
fn numbers_are_read_and_written_as_quantities() {
    assert_eq!(hex(255), "0xff");
    assert_eq!(number(&json!("0x10")), Some(16));
    assert_eq!([json!(16), json!("16")].map(|odd| number(&odd)), [Some(16), Some(16)], "as odd nodes say it");
    assert_eq!(number(&json!("0x7fffffffffffffff")), Some(u64::MAX / 2));
    let large = [json!("0x8000000000000000"), json!(u64::MAX)];
    let wrong = ["0x", "0x1g", "1a", "", "-1", "+1", "0x+1", "1.5"].map(Value::from);
    for wrong in large.into_iter().chain(wrong).chain([json!(null), json!(["0x1"]), json!(-1), json!(1.5)]) {
        assert_eq!(number(&wrong), None, "{wrong}");
    }
    assert_eq!(wei(&json!("0x")), None);
    assert_eq!(wei(&json!(format!("0x{}", "f".repeat(40)))), Some(u128::MAX));
    assert_eq!(wei(&json!("100000000000000000000")), Some(100_000_000_000_000_000_000));
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
fn no_endpoint_alone_has_a_transaction_run_out_of_gas() {
    let estimate = |gas: u64| Ok(format!("\"{gas:#x}\""));
    let reverts = || Err(HostError::new("chain", HostErrorKind::InvalidInput, "execution reverted").with_code(3));
    let away = || Err(HostError::new("chain", HostErrorKind::Timeout, "slow"));
    let come_to = |answers: Vec<Answer>| {
        let named = answers.into_iter().map(|answer| EndpointAnswer { endpoint: "n".to_owned(), answer });
        estimated(Ok(named.collect()))
    };
    for (answers, gas) in [
        (vec![estimate(21_000), estimate(50_000), estimate(51_000)], 50_000),
        (vec![estimate(9_000_000), estimate(50_000), estimate(51_000)], 51_000),
        (vec![estimate(21_000), estimate(50_000)], 50_000),
        (vec![estimate(50_000), reverts(), away()], 50_000),
        (vec![away(), estimate(50_000)], 50_000),
    ] {
        assert_eq!(come_to(answers), Simulated::Succeeds { gas });
    }
    assert!(matches!(come_to(vec![estimate(50_000), reverts(), reverts()]), Simulated::Reverts { .. }));
    assert!(matches!(come_to(vec![away(), reverts()]), Simulated::Reverts { .. }));
    assert!(matches!(come_to(vec![away()]), Simulated::Unknown(_)));
    assert!(matches!(come_to(Vec::new()), Simulated::Unknown(_)));
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
    let odd = [json!(null), json!(true), json!("0x1"), json!(false), json!("0x0"), json!(0), json!("failed")];
    let succeeded = odd.map(|status| {
        receipt["status"] = status;
        mined(&receipt, &of).map(|read| read.unwrap().succeeded).ok()
    });
    let [yes, no] = [true, false].map(Some);
    assert_eq!(succeeded, [yes, yes, yes, no, no, no, None]);
    receipt["status"] = json!("0x1");
    let other = Hash([2; 32]);
    assert_eq!(mined(&receipt, &other), Err(format!("a receipt of {hash} instead of {other}")));
    receipt["blockNumber"] = Value::Null;
    assert_eq!(mined(&receipt, &of), Err("a receipt without blockNumber".to_owned()));
}
