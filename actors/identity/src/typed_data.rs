//! EIP-712 typed data: read from JSON, held against bounds, and made into what is hashed.
//!
//! Invariant: what is signed is what people and policies are shown. Data that says more than is hashed (a field that its type does not
//! have, a domain other than its declaration) is refused, and so is data that means one thing here and another elsewhere.

use std::collections::BTreeMap;

use alloy_dyn_abi::{DynSolType, TypedData};
use nexum_host_ifaces::{Address, interfaces::identity::port::TYPED_DATA_BYTES_MAX};
use serde_json::{Map, Value};

use crate::policy::Facts;

const TYPES_MAX: usize = 128;
const FIELDS_MAX: usize = 256;
/// Of a type or a field.
const NAME_BYTES_MAX: usize = 256;
/// Fields of the primary type with those of the structs in it, however often each is named: types that refer to others twice
/// double with each.
const EXPANDED_MAX: usize = 4_096;
/// Every struct of the message is hashed with the text of its types.
const HASHED_BYTES_MAX: usize = 4 << 20;
/// Structs within each other, and lists within each other in one type: whoever walks a value has frames of the stack for each.
const STRUCTS_DEEP_MAX: usize = 32;
const LISTS_DEEP_MAX: usize = 4;

/// The fields of a domain, in the order in which they are hashed.
const DOMAIN: [(&str, &str); 5] = [
    ("name", "string"),
    ("version", "string"),
    ("chainId", "uint256"),
    ("verifyingContract", "address"),
    ("salt", "bytes32"),
];

/// Typed data that may be signed.
#[derive(Debug)]
pub struct Checked {
    /// What the signer hashes.
    pub preimage: Vec<u8>,
    pub facts: Facts,
    pub json: Value,
}

/// `Err` says what is wrong with it.
pub fn read(text: &str) -> Result<Checked, String> {
    if text.len() > TYPED_DATA_BYTES_MAX {
        return Err(format!("{} bytes of typed data, at most {TYPED_DATA_BYTES_MAX}", text.len()));
    }
    let json: Value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
    let types = Types::read(object(&json, "types")?)?;
    let domain = object(&json, "domain")?;
    types.check_domain(domain)?;
    let primary = json.get("primaryType").and_then(Value::as_str).ok_or("`primaryType` is no text")?;
    if primary == "EIP712Domain" || !types.0.contains_key(primary) {
        return Err("`primaryType` is none of the types of a message".to_owned());
    }
    types.expanded(primary, &mut BTreeMap::new())?;
    let message = json.get("message").ok_or("there is no `message`")?;
    let mut structs = 0;
    types.check_value(primary, message, &mut structs)?;
    if structs.saturating_mul(types.bytes()) > HASHED_BYTES_MAX {
        return Err("so many structs of types so long that hashing them takes too long".to_owned());
    }

    let data: TypedData = serde_json::from_value(json.clone()).map_err(|error| error.to_string())?;
    let struct_hash = data.hash_struct().map_err(|error| format!("`message`: {error}"))?;
    let preimage = [&[0x19u8, 0x01][..], &data.domain.separator()[..], &struct_hash[..]].concat();
    let chain_id = match data.domain.chain_id {
        None => None,
        Some(id) => Some(u64::try_from(id).map_err(|_| "`domain.chainId` is larger than any chain's")?),
    };
    let verifying_contract = data.domain.verifying_contract.map(|address| Address(address.into_array()));
    let facts = Facts::TypedData { verifying_contract, chain_id, primary_type: data.primary_type };
    Ok(Checked { preimage, facts, json })
}

fn object<'a>(json: &'a Value, name: &str) -> Result<&'a Map<String, Value>, String> {
    json.get(name).and_then(Value::as_object).ok_or_else(|| format!("`{name}` is no object"))
}

/// The fields of each type: names and types.
struct Types<'a>(BTreeMap<&'a str, Vec<(&'a str, &'a str)>>);

impl<'a> Types<'a> {
    fn read(types: &'a Map<String, Value>) -> Result<Self, String> {
        if types.len() > TYPES_MAX {
            return Err(format!("{} types, at most {TYPES_MAX}", types.len()));
        }
        let mut read = BTreeMap::new();
        for (name, fields) in types {
            check_name(name)?;
            if DynSolType::parse(name).is_ok() {
                return Err(format!("the type `{name}` is one of Solidity's own"));
            }
            let fields = fields.as_array().filter(|fields| fields.len() <= FIELDS_MAX);
            let fields = fields.ok_or_else(|| format!("type `{name}` is no list of at most {FIELDS_MAX} fields"))?;
            let text = |field: &'a Value, key: &str| {
                field.get(key).and_then(Value::as_str).ok_or_else(|| format!("a field of `{name}` has no `{key}`"))
            };
            let mut known: Vec<(&str, &str)> = Vec::new();
            for field in fields {
                let (field, kind) = (text(field, "name")?, text(field, "type")?);
                check_name(field)?;
                check_name(base(kind))?;
                if kind.len() > NAME_BYTES_MAX {
                    return Err(format!("a type of {} bytes, at most {NAME_BYTES_MAX}", kind.len()));
                }
                if kind.matches('[').count() > LISTS_DEEP_MAX {
                    return Err(format!("a type of more than {LISTS_DEEP_MAX} lists within each other"));
                }
                if known.iter().any(|(known, _)| *known == field) {
                    return Err(format!("type `{name}` has two fields `{field}`"));
                }
                known.push((field, kind));
            }
            read.insert(name.as_str(), known);
        }
        Ok(Self(read))
    }

    fn bytes(&self) -> usize {
        let fields =
            |fields: &Vec<(&str, &str)>| fields.iter().map(|(name, kind)| name.len() + kind.len() + 2).sum::<usize>();
        self.0.iter().map(|(name, of)| name.len() + fields(of) + 2).sum()
    }

    /// The domain has the fields that its type declares, where it is declared, and no others.
    fn check_domain(&self, domain: &Map<String, Value>) -> Result<(), String> {
        if let Some(unknown) = domain.keys().find(|key| DOMAIN.iter().all(|(name, _)| name != key)) {
            return Err(format!("`domain` has a field `{unknown}`, which no domain has"));
        }
        if domain.values().any(Value::is_null) {
            return Err("`domain` has a field that is null: leave it out".to_owned());
        }
        let present: Vec<_> = DOMAIN.into_iter().filter(|(name, _)| domain.contains_key(*name)).collect();
        match self.0.get("EIP712Domain") {
            Some(declared) if *declared != present => {
                Err("`types.EIP712Domain` does not list the fields of `domain`, with their types and in the order of EIP-712"
                    .to_owned())
            }
            _ => Ok(()),
        }
    }

    /// How many fields a value of this type has, with those of the structs in it, and how many structs are within each
    /// other there.
    fn expanded(
        &self,
        name: &'a str,
        known: &mut BTreeMap<&'a str, Option<(usize, usize)>>,
    ) -> Result<(usize, usize), String> {
        // What is no struct is one field.
        let Some((&name, fields)) = self.0.get_key_value(name) else { return Ok((1, 0)) };
        match known.get(name) {
            Some(Some(found)) => return Ok(*found),
            Some(None) => return Err(format!("type `{name}` has itself in it")),
            None => known.insert(name, None),
        };
        let (mut size, mut deep): (usize, usize) = (1, 0);
        for &(_, kind) in fields {
            let (of_field, below) = self.expanded(base(kind), known)?;
            (size, deep) = (size.saturating_add(of_field), deep.max(below));
        }
        deep += 1;
        if deep > STRUCTS_DEEP_MAX {
            return Err(format!("type `{name}` has more than {STRUCTS_DEEP_MAX} structs within each other"));
        }
        if size > EXPANDED_MAX {
            return Err(format!("type `{name}` has more than {EXPANDED_MAX} fields in its structs"));
        }
        known.insert(name, Some((size, deep)));
        Ok((size, deep))
    }

    /// Every struct has the fields of its type and no others. Counts them.
    fn check_value(&self, kind: &str, value: &Value, structs: &mut usize) -> Result<(), String> {
        if kind.ends_with(']') {
            let inner = kind.rfind('[').map_or(kind, |at| &kind[..at]);
            let list = value.as_array();
            return list.into_iter().flatten().try_for_each(|value| self.check_value(inner, value, structs));
        }
        // Numbers, texts and the like are checked where they are encoded.
        let Some(fields) = self.0.get(kind) else { return Ok(()) };
        *structs += 1;
        let value = value.as_object().ok_or_else(|| format!("a `{kind}` is no object"))?;
        if let Some(surplus) = value.keys().find(|key| fields.iter().all(|(name, _)| name != key)) {
            return Err(format!("`{kind}` has no field `{surplus}`: it would not be signed"));
        }
        fields.iter().try_for_each(|(name, kind)| {
            let value = value.get(*name).ok_or_else(|| format!("`{name}` is missing"))?;
            self.check_value(kind, value, structs)
        })
    }
}

/// The type without its array brackets.
fn base(kind: &str) -> &str {
    kind.split('[').next().unwrap_or(kind)
}

/// What a name may not have in it stands between names in the text of a type, and could make one type look like another.
pub fn check_name(name: &str) -> Result<(), String> {
    let strange = |c: char| "(),[]`\"\\".contains(c) || c.is_control() || c.is_whitespace();
    match name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(strange) {
        true => Err(format!(
            "a type or field without a name, or with one that has (),[], quotes or blanks, or more than {NAME_BYTES_MAX} bytes"
        )),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mail() -> Value {
        json!({
            "types": {
                "EIP712Domain": [{"name": "name", "type": "string"}, {"name": "chainId", "type": "uint256"}],
                "Mail": [{"name": "to", "type": "Person[]"}, {"name": "text", "type": "string"}],
                "Person": [{"name": "wallet", "type": "address"}],
            },
            "primaryType": "Mail",
            "domain": {"name": "mail", "chainId": 5},
            "message": {"to": [{"wallet": "0xCD2a3d9F938E13CD947Ec05AbC7FE734Df8DD826"}], "text": "hello"},
        })
    }

    fn refused(change: impl Fn(&mut Value)) -> String {
        let mut data = mail();
        change(&mut data);
        read(&data.to_string()).unwrap_err()
    }

    #[test]
    fn what_is_shown_is_what_is_signed() {
        let checked = read(&mail().to_string()).unwrap();
        let facts = Facts::TypedData { verifying_contract: None, chain_id: Some(5), primary_type: "Mail".into() };
        assert_eq!((checked.facts, checked.preimage.len(), checked.json), (facts, 66, mail()));
        for (told, said) in [
            (refused(|data| data["message"]["also"] = 1.into()), "`Mail` has no field `also`"),
            (refused(|data| data["message"]["to"][0]["also"] = 1.into()), "`Person` has no field `also`"),
            (refused(|data| data["message"] = json!({"to": []})), "`text` is missing"),
            (refused(|data| data["domain"]["chainID"] = 1.into()), "a field `chainID`"),
            (refused(|data| data["domain"]["salt"] = Value::Null), "null"),
            (refused(|data| data["domain"]["version"] = "1".into()), "does not list the fields"),
            (refused(|data| data["types"]["EIP712Domain"] = json!([])), "does not list the fields"),
            (
                refused(|data| data["domain"]["chainId"] = format!("0x1{}", "0".repeat(16)).into()),
                "larger than any chain's",
            ),
            (refused(|data| data["primaryType"] = "EIP712Domain".into()), "none of the types"),
            (refused(|data| data["primaryType"] = "Nobody".into()), "none of the types"),
            (refused(|data| data["types"]["uint256"] = json!([])), "one of Solidity's own"),
            (refused(|data| data["types"]["Mail"][1]["name"] = "a,uint b".into()), "a type or field"),
            (refused(|data| data["types"]["Mail"][1]["name"] = "\u{1b}[2J".into()), "a type or field"),
            (refused(|data| data["types"]["Mail"][1]["name"] = "a\"b".into()), "a type or field"),
            (refused(|data| data["types"]["Mail"][1]["name"] = "to".into()), "two fields `to`"),
            (refused(|data| data["message"]["text"] = 7.into()), "`message`"),
        ] {
            assert!(told.contains(said), "{told}");
        }
    }

    #[test]
    fn data_that_would_take_long_is_refused_at_once() {
        let field = |name: &str, kind: &str| json!({"name": name, "type": kind});
        let doubling = refused(|data| {
            for number in 0..30 {
                let next = format!("T{}", number + 1);
                data["types"][format!("T{number}")] = json!([field("a", &next), field("b", &next)]);
            }
            data["types"]["T30"] = json!([]);
            data["types"]["Mail"][1]["type"] = "T0".into();
        });
        assert!(doubling.contains("more than 4096 fields"), "{doubling}");
        let endless = refused(|data| data["types"]["Person"] = json!([field("mails", "Mail[]")]));
        assert!(endless.contains("has itself in it"), "{endless}");
        let nested = refused(|data| data["types"]["Mail"][1]["type"] = format!("string{}", "[]".repeat(1_000)).into());
        assert!(nested.contains("a type of 2006 bytes"), "{nested}");
        let lists = refused(|data| data["types"]["Mail"][1]["type"] = format!("string{}", "[]".repeat(5)).into());
        assert!(lists.contains("more than 4 lists within each other"), "{lists}");
        let chained = refused(|data| {
            for number in 0..40 {
                let next = format!("T{}[][][][]", number + 1);
                data["types"][format!("T{number}")] = json!([field("a", &next)]);
            }
            data["types"]["T40"] = json!([]);
            data["types"]["Mail"][1]["type"] = "T0".into();
        });
        assert!(chained.contains("more than 32 structs within each other"), "{chained}");
        let many = refused(|data| {
            data["types"]["Person"] = json!([]);
            data["types"]["Long"] = (0..200).map(|number| field(&format!("{number:0>200}"), "uint8")).collect();
            data["message"]["to"] = vec![json!({}); 10_000].into();
        });
        assert!(many.contains("hashing them takes too long"), "{many}");
        let large = read(&" ".repeat(TYPED_DATA_BYTES_MAX + 1)).unwrap_err();
        assert!(large.contains("bytes of typed data"), "{large}");
        assert!(read(&"[".repeat(1_000)).is_err() && read("\"{}\"").is_err());
    }
}
