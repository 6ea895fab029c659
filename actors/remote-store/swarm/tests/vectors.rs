//! Addresses, encrypted references, single-owner chunks and feeds as another program has them: `fixtures/swarm/vectors.json`,
//! which `make swarm-vectors` writes with bee-js.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::HashMap;

use nexum_swarm::{
    Chunk, Reference, encryption, feed,
    join::Join,
    soc,
    split::{root, split},
};
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../../fixtures/swarm/vectors.json")).unwrap()
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 7 + at / 4096 + at / 251) as u8).collect()
}

fn bytes(value: &Value) -> usize {
    value["bytes"].as_u64().unwrap().try_into().unwrap()
}

fn hashed<const N: usize>(value: &Value) -> [u8; N] {
    hex::decode(value.as_str().unwrap()).unwrap().try_into().unwrap()
}

#[test]
fn content_has_the_address_that_bee_js_gives_it() {
    let vectors = vectors();
    let list = vectors["addresses"].as_array().unwrap();
    assert!(list.len() > 10 && list.iter().any(|vector| bytes(vector) == 10 << 20));
    for vector in list {
        let root = root(&content(bytes(vector)));
        assert_eq!((hex::encode(root.address), root.span()), (text(&vector["address"]), bytes(vector) as u64));
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[test]
fn an_encrypted_tree_has_its_reference_and_is_read_by_it() {
    let vectors = vectors();
    for vector in vectors["encrypted"].as_array().unwrap() {
        let (content, mut number, mut chunks) = (content(bytes(vector)), 0u8, HashMap::new());
        let seal = |chunk: Chunk| {
            number = number.wrapping_add(1);
            encryption::encrypt(&chunk, [number; 32], || number)
        };
        let reference = split(&content, seal, |_, chunk| _ = chunks.insert(chunk.address, chunk.wire()));
        assert_eq!(hex::encode(reference.to_bytes()), text(&vector["reference"]));
        let read = Reference::of_bytes(&hashed::<64>(&vector["reference"])).unwrap();
        let mut join = Join::new(read, content.len());
        while let Some(address) = join.ask() {
            join.take(&Chunk::read(&chunks[&address], &address).unwrap()).unwrap();
        }
        assert!(join.finish().unwrap() == content);
    }
}

#[test]
fn the_updates_of_a_feed_are_where_bee_js_puts_them_and_signed_as_it_signs() {
    let vectors = vectors();
    let owner: soc::Owner = hashed(&vectors["owner"]);
    for update in vectors["updates"].as_array().unwrap() {
        let (topic, index) = (hashed(&update["topic"]), update["index"].as_u64().unwrap());
        let identifier = feed::identifier(&topic, index);
        assert_eq!(hex::encode(identifier), text(&update["identifier"]));
        assert_eq!(hex::encode(soc::address(&identifier, &owner)), text(&update["address"]));
        let wire = hex::decode(text(&update["wire"])).unwrap();
        assert_eq!(hex::encode(&wire[32..97]), text(&update["signature"]));
        let read = soc::read(&wire, &identifier, &owner).unwrap();
        assert_eq!((read.payload.len(), read.payload), (bytes(update), content(bytes(update))));
        assert!(soc::read(&wire, &identifier, &[7; 20]).is_err());
        assert!(soc::read(&wire, &[7; 32], &owner).is_err());
        for at in 0..wire.len() {
            let mut wrong = wire.clone();
            wrong[at] ^= 1;
            assert!(soc::read(&wrong, &identifier, &owner).is_err(), "byte {at}");
        }
    }
}
