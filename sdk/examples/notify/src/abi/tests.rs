//! Decoding against what the SDK's own encoder writes, and hostile data.

use nexum_sdk::alloy::primitives::{Address, B256, I256};
use nexum_sdk::alloy::sol_types::{SolEvent, SolValue};
use nexum_sdk::sol;

use super::*;

sol! {
    event Transfer(address indexed from, address indexed to, uint256 value);
    event Everything(bool flag, int64 signed, bytes4 word, string name, bytes data, uint8[2] pair, string indexed topic);
}

fn log_of(signature: &str, event: &impl SolEvent) -> Option<Fields> {
    let signature = Signature::event(signature).unwrap();
    let data = event.encode_log_data();
    let topics: Vec<_> = data.topics().iter().map(|topic| topic.to_vec()).collect();
    signature.log(&signature.hash(), &topics, &data.data)
}

#[test]
fn a_transfer_is_read_by_its_names() {
    let event = Transfer { from: Address::repeat_byte(1), to: Address::repeat_byte(2), value: U256::from(7u64) };
    let text = "event Transfer(address indexed from, address indexed to, uint256 value);";
    let fields = log_of(text, &event).unwrap();
    assert_eq!(fields.find("to"), Some(&Value::Bytes(vec![2; 20])));
    assert_eq!(fields.find("value"), Some(&Value::Number(Number::from(7u64))));
    assert_eq!(Signature::event(text).unwrap().hash(), Transfer::SIGNATURE_HASH.0);
    // As ERC-721 has it: the same hash, and another parameter among the topics.
    assert_eq!(log_of("Transfer(address indexed from, address indexed to, uint256 indexed id)", &event), None);
    assert_eq!(log_of("Approval(address indexed from, address indexed to, uint256 value)", &event), None);
}

#[test]
fn every_type_is_read() {
    let event = Everything {
        flag: true,
        signed: -5,
        word: [1, 2, 3, 4].into(),
        name: "gold".into(),
        data: vec![9u8; 40].into(),
        pair: [3, 4],
        topic: B256::repeat_byte(8),
    };
    let text = "Everything(bool flag, int64 signed, bytes4 word, string name, bytes data, uint8[2] pair, \
                string indexed topic)";
    let fields = log_of(text, &event).unwrap();
    let shown: Vec<_> = fields.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let expected = [
        "flag=true".to_owned(),
        "signed=-5".into(),
        "word=0x01020304".into(),
        "name=gold".into(),
        format!("data=0x{}", "09".repeat(40)),
        "pair=[3, 4]".into(),
        format!("topic=0x{}", "08".repeat(32)),
    ];
    assert_eq!(shown, expected);
    let signature = Signature::event(text).unwrap();
    assert_eq!(signature.hash(), Everything::SIGNATURE_HASH.0);
    let kinds: Vec<_> = scope(&signature.params).0.into_iter().map(|(_, kind)| kind).collect();
    let expected = [Kind::Flag, Kind::Number, Kind::Bytes(Some(4)), Kind::Text, Kind::Bytes(None), Kind::List];
    assert_eq!((&kinds[..6], &kinds[6..]), (&expected[..], &[Kind::Bytes(Some(32))][..]));
}

#[test]
fn tuples_are_lists() {
    let rows = vec![(Address::repeat_byte(1), "a".to_owned()), (Address::repeat_byte(2), "b".to_owned())];
    let signature = Signature::event("E(tuple(address who, string)[] rows, uint8)").unwrap();
    let data = (rows, U256::from(3u64)).abi_encode_params();
    let fields = signature.log(&signature.hash(), &[signature.hash().to_vec()], &data).unwrap();
    let expected = format!("[[{}, a], [{}, b]]", Address::repeat_byte(1), Address::repeat_byte(2));
    assert_eq!(fields.find("rows").unwrap().to_string(), expected);
    assert_eq!(fields.find("arg1").unwrap().to_string(), "3");
    let plain = Signature::event("E((address,string)[] rows, uint8)").unwrap();
    assert_eq!(signature.hash(), plain.hash());
}

#[test]
fn bytes_that_are_not_what_they_should_be_are_nothing() {
    let signature = Signature::event("E(string s, uint256[] list)").unwrap();
    let read = |data: &[u8]| signature.log(&signature.hash(), &[signature.hash().to_vec()], data);
    let word = |number: u64| U256::from(number).to_be_bytes::<32>();
    let good = [word(64), word(96), word(0), word(1), word(7)].concat();
    assert_eq!(read(&good).unwrap().find("list"), Some(&Value::List(vec![Value::Number(Number::from(7u64))])));
    for bad in [
        Vec::new(),
        good[..good.len() - 1].to_vec(),
        [word(1_000), word(96), word(0), word(1), word(7)].concat(),
        [word(64), word(96), word(0), word(2), word(7)].concat(),
        [[0xff; 32], word(96), word(0), word(1), word(7)].concat(),
        [word(64), word(96), word(0), [0xff; 32], word(7)].concat(),
    ] {
        assert_eq!(read(&bad), None);
    }
}

/// Lists of lists whose offsets all lead to the same bytes would be more than memory holds.
#[test]
fn what_leads_to_the_same_bytes_again_and_again_is_not_followed() {
    let signature = Signature::event("E(uint256[][][][] bomb)").unwrap();
    let mut data = vec![U256::from(32u64).to_be_bytes::<32>()];
    // Each level: a length, and as many offsets to the next level.
    for level in (0..4u64).rev() {
        data.push(U256::from(64u64).to_be_bytes());
        let to_next = U256::from(64u64 * 32);
        let offset = if level == 0 { U256::ZERO } else { to_next };
        data.extend([offset.to_be_bytes::<32>(); 64]);
    }
    assert_eq!(signature.log(&signature.hash(), &[signature.hash().to_vec()], &data.concat()), None);
    let long = Signature::event("E(string s)").unwrap();
    let mut data = [U256::from(32u64).to_be_bytes::<32>(), U256::from(4_000u64).to_be_bytes::<32>()].concat();
    data.extend([b'x'; 4_000]);
    let fields = long.log(&long.hash(), &[long.hash().to_vec()], &data).unwrap();
    assert_eq!(fields.find("s"), Some(&Value::Text("x".repeat(KEPT_BYTES_MAX))));
}

#[test]
fn functions_have_words_and_answers() {
    let function =
        Signature::function("function latestAnswer() external view returns (int256 answer, uint256)").unwrap();
    assert_eq!(hex::encode(&function.hash()[..4]), "50d25bcd");
    let data = [I256::try_from(-3).unwrap().to_be_bytes::<32>(), U256::from(9u64).to_be_bytes::<32>()].concat();
    let fields = function.answer(&data).unwrap();
    assert_eq!(
        fields.0.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>(),
        ["answer=-3", "arg1=9"]
    );
    assert_eq!(function.answer(&[]), None);

    let word = |ty: &str, text: &str| elementary(ty).unwrap().word(text).map(hex::encode);
    assert_eq!(word("uint256", "1e3").unwrap(), format!("{}3e8", "0".repeat(61)));
    assert_eq!(
        word("address", &format!("0x{}", "ab".repeat(20))).unwrap(),
        format!("{}{}", "0".repeat(24), "ab".repeat(20))
    );
    assert_eq!(word("bool", "true").unwrap(), format!("{}1", "0".repeat(63)));
    assert_eq!(word("bytes2", "0x0102").unwrap(), format!("0102{}", "0".repeat(60)));
    for (ty, text) in [("uint256", "-1"), ("uint256", "1x"), ("address", "0xab"), ("bool", "yes"), ("string", "a")] {
        assert!(word(ty, text).is_err(), "{ty} {text}");
    }
}

#[test]
fn what_is_wrong_in_a_signature_is_said_with_its_column() {
    for (text, column, message) in [
        ("Transfer", 9, "expected a name and `(`, as in: Transfer(address indexed from, uint256 value)"),
        ("T(IERC20 token)", 3, "`IERC20` is no type that can be read; contracts are `address`, enums `uint8`"),
        ("T(uint7 x)", 3, "`uint7` is no type that can be read; contracts are `address`, enums `uint8`"),
        ("T(uint256 a b)", 13, "expected `,` or `)`"),
        ("T(uint256[0] a)", 13, "expected `[]`, or `[3]` with another length from 1 on"),
        ("T(uint256 a) x", 14, "expected the end, and there is `x`"),
        ("T(bytes33 a)", 3, "`bytes33` is no type that can be read; contracts are `address`, enums `uint8`"),
    ] {
        let wrong = Signature::event(text).unwrap_err();
        assert_eq!((wrong.column, wrong.message.as_str()), (column, message), "{text}");
    }
    let four = "T(uint256 indexed a, uint256 indexed b, uint256 indexed c, uint256 indexed d)";
    assert_eq!(Signature::event(four).unwrap_err().message, "4 parameters are indexed, at most 3 can be");
    assert!(Signature::event("T() anonymous").unwrap_err().message.starts_with("an anonymous event"));
    assert!(Signature::event(&format!("T({}uint256)", "(".repeat(100))).is_err());
    assert!(Signature::event(&format!("T(uint256{} a)", "[9]".repeat(9))).is_err());
    assert!(Signature::function("f()").unwrap_err().message.starts_with("what it returns is missing"));
}
