//! What a module may have signed.

use crate::interfaces::table::Key;

const METHODS: [&str; 2] = ["sign", "sign-typed-data"];

pub(super) const TABLE: &[Key] = &[Key {
    name: "methods",
    is_required: true,
    entries_max: 64,
    entry_bytes_max: 64,
    read: |method| match METHODS.contains(&method) {
        true => Ok(method.to_owned()),
        false => Err(format!("unknown identity method `{method}`; known are {}", METHODS.join(", "))),
    },
}];
