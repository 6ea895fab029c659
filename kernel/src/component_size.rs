//! What one core instance takes of the host's memory besides its memories and tables: references to its imports, its
//! exports and the functions that it can name, and its globals. A few bytes of a component each make wasmtime keep dozens
//! in every instance.
//!
//! Invariant: what is refused here is refused before it is compiled. With the number of core instances that a component may
//! have ([`nexum_host_ifaces::limits::INSTANCES_MAX`]) this bounds what a component takes when it starts.

use wasmparser::{ElementItems, Parser, Payload};

/// What one core instance may take. A program that fills the largest table that is hosted takes half of it, and has the
/// other half for what it imports and exports.
pub const INSTANCE_BYTES_MAX: u64 = 2 << 20;

/// An import or an export: pointers to its code and its instance, and its type.
const REFERENCE_BYTES: u64 = 32;
/// A global, whose value may be a reference to a function that has no other.
const GLOBAL_BYTES: u64 = 16 + REFERENCE_BYTES;
/// A function in a list of elements: a reference, and its place in a list that is kept.
const ELEMENT_BYTES: u64 = 16 + REFERENCE_BYTES;
/// A list of elements itself.
const ELEMENTS_BYTES: u64 = 64;
/// The place and length of a data segment, and an exception's tag.
const SEGMENT_BYTES: u64 = 16;

/// Whether each core module of a component takes so little that it can be hosted. What is no component is left to the
/// compiler, which says what is wrong with it.
///
/// # Errors
/// What an instance of the first module that takes too much would take.
pub fn check(component: &[u8]) -> Result<(), String> {
    match largest_instance(component) {
        Ok(bytes) if bytes > INSTANCE_BYTES_MAX => Err(format!(
            "an instance of one of its core modules takes {bytes} bytes for its imports, exports, globals and elements, at \
             most {INSTANCE_BYTES_MAX} are hosted"
        )),
        _ => Ok(()),
    }
}

/// What an instance of the largest core module takes, or of the first that is larger than is hosted, bytes.
fn largest_instance(component: &[u8]) -> wasmparser::Result<u64> {
    let (mut largest, mut bytes) = (0_u64, 0_u64);
    for payload in Parser::new(0).parse_all(component) {
        let added = match payload? {
            // Of a module, or of a component, which has no such sections itself; modules are not nested in modules.
            Payload::Version { .. } => {
                bytes = 0;
                0
            }
            Payload::ImportSection(imports) => {
                let count = imports.into_imports().try_fold(0_u64, |count, import| import.map(|_| count + 1))?;
                REFERENCE_BYTES * count
            }
            Payload::ExportSection(exports) => REFERENCE_BYTES * u64::from(exports.count()),
            Payload::GlobalSection(globals) => GLOBAL_BYTES * u64::from(globals.count()),
            Payload::TagSection(tags) => SEGMENT_BYTES * u64::from(tags.count()),
            Payload::DataSection(segments) => SEGMENT_BYTES * u64::from(segments.count()),
            Payload::ElementSection(lists) => {
                let mut sum = 0;
                for list in lists {
                    let count = match list?.items {
                        ElementItems::Functions(functions) => functions.count(),
                        ElementItems::Expressions(_, expressions) => expressions.count(),
                    };
                    sum += ELEMENTS_BYTES + ELEMENT_BYTES * u64::from(count);
                }
                sum
            }
            _ => 0,
        };
        bytes += added;
        largest = largest.max(bytes);
        if largest > INSTANCE_BYTES_MAX {
            break;
        }
    }
    Ok(largest)
}

#[cfg(test)]
mod tests {
    use std::slice;

    use nexum_host_ifaces::Hash;
    use nexum_testkit::wasm::{self, entries, globals, section};
    use sha2::{Digest as _, Sha256};

    use super::*;
    use crate::compile::{Refusal, compile_alone};

    /// A component of core modules, each of one section or of several in a row.
    fn component(modules: &[Vec<u8>]) -> Vec<u8> {
        let modules: Vec<_> = modules.iter().map(|sections| wasm::core_module(slice::from_ref(sections))).collect();
        wasm::component(&modules)
    }

    #[test]
    fn what_an_instance_takes_is_that_of_its_largest_module() {
        let largest = |modules: &[Vec<u8>]| largest_instance(&component(modules)).unwrap();
        assert_eq!(largest(&[]), 0);
        assert_eq!(largest(&[globals(3)]), 3 * GLOBAL_BYTES);
        assert_eq!(largest(&[globals(2), globals(5), globals(1)]), 5 * GLOBAL_BYTES, "each has instances of its own");
        // (import "" "" (global i32)), and a memory and a table, which are counted elsewhere.
        let import = entries(2, 4, &[0, 0, 0x03, 0x7f, 0x00]);
        let sections = [import, section(4, &[1, 0x70, 0x00, 0]), section(5, &[1, 0x00, 0]), globals(1)].concat();
        assert_eq!(largest(&[sections]), 4 * REFERENCE_BYTES + GLOBAL_BYTES);
        // Twice passive elements, which name the first function seven times.
        let listed = [0x01, 0x00, 7, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(largest(&[entries(9, 2, &listed)]), 2 * ELEMENTS_BYTES + 14 * ELEMENT_BYTES);
    }

    #[test]
    fn a_component_whose_instances_take_too_much_is_refused_before_it_is_compiled() {
        let compiled = |bytes: &[u8]| compile_alone(bytes, Hash(Sha256::digest(bytes).into()), u64::MAX);
        let fit = (INSTANCE_BYTES_MAX / GLOBAL_BYTES) as usize;
        assert!(compiled(&component(&[globals(fit)])).is_ok());
        let reason = "an instance of one of its core modules takes 2097168 bytes for its imports, exports, globals and \
                      elements, at most 2097152 are hosted";
        let refused = compiled(&component(&[globals(1), globals(fit + 1)]));
        assert_eq!(refused, Err(Refusal::Component(reason.to_owned())));
        // What cannot be read is the compiler's to name.
        assert_eq!(check(&[wasm::COMPONENT, &[0xff]].concat()), Ok(()));
        assert_eq!(check(b"no component"), Ok(()));
    }

    /// What the fuzzer begins with.
    #[test]
    fn the_corpus_of_components_is_answered() {
        let refused = nexum_testkit::corpus("component").iter().filter(|seed| check(seed).is_err()).count();
        assert_eq!(refused, 1, "one says that it has more globals than can be");
    }
}
