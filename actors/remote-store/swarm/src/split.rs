//! Content cut into a tree of chunks: leaves of 4,096 bytes, and above them chunks of references.

use crate::{
    chunk::{Chunk, PAYLOAD_BYTES_MAX},
    reference::Reference,
};

/// Cuts content, tells every chunk with the reference to it, and answers the root's. `seal` makes the chunk that is stored of
/// the plain one: the same, or an encrypted one.
pub fn split(
    data: &[u8],
    mut seal: impl FnMut(Chunk) -> (Reference, Chunk),
    mut tell: impl FnMut(&Reference, &Chunk),
) -> Reference {
    let mut store = |span: u64, payload: &[u8]| {
        let (reference, chunk) = seal(Chunk::new(span, payload.to_vec()));
        tell(&reference, &chunk);
        (reference, span)
    };
    let mut level: Vec<(Reference, u64)> = match data.is_empty() {
        true => vec![store(0, &[])],
        false => data.chunks(PAYLOAD_BYTES_MAX).map(|leaf| store(leaf.len() as u64, leaf)).collect(),
    };
    while let [first, _, ..] = level.as_slice() {
        let branches = PAYLOAD_BYTES_MAX / first.0.size();
        level = level
            .chunks(branches)
            .map(|children| match children {
                // Alone at the end of its level: it goes up as it is.
                [alone] => *alone,
                children => {
                    let payload: Vec<u8> = children.iter().flat_map(|(reference, _)| reference.to_bytes()).collect();
                    store(children.iter().map(|(_, span)| span).sum(), &payload)
                }
            })
            .collect();
    }
    level[0].0
}

/// The same without encryption: the root chunk, with the address that the content has.
pub fn root(data: &[u8]) -> Chunk {
    let plain = |chunk: Chunk| (Reference { address: chunk.address, key: None }, chunk);
    let mut last = None;
    let reference = split(data, plain, |_, chunk| last = Some(chunk.clone()));
    match last {
        Some(root) if root.address == reference.address => root,
        _ => unreachable!("the root of a tree is made after everything below it"),
    }
}
