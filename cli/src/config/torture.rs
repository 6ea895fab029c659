//! What must hold of whatever stands in an engine's configuration. The tests try what the fuzzer begins with and what it found,
//! and `make fuzz` tries more.

use std::path::Path;

use super::{Flags, Variables, of_file, shown, source::File};

/// Reads a configuration that lies where nothing else does. What is taken can be shown; what is not is told with
/// the file that it is in.
///
/// # Panics
/// When something does not hold.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (variables, flags) = (Variables::new(), Flags::default());
    let file = File::parse(Path::new("/nonexistent/nexum-engine.toml"), text, &variables);
    match file.and_then(|file| of_file(&file, &variables, &flags, &|_| Ok(()))) {
        Ok(config) => assert!(!shown(&config).starts_with("# cannot be shown"), "{text:?}"),
        Err(error) => {
            let told = error.to_string();
            assert!(told.starts_with("/nonexistent/nexum-engine.toml:"), "{told}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nexum_testkit::corpus;

    use super::*;

    #[test]
    fn the_corpus_of_configurations_is_answered() {
        corpus("engine-config").iter().for_each(|seed| config(seed));
    }

    /// Those of the cases name files beside them, which are not there.
    #[test]
    fn every_case_is_answered_when_all_that_it_names_is_missing() {
        let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/cases/engine-config");
        for case in fs::read_dir(cases).unwrap() {
            config(&fs::read(case.unwrap().path().join("nexum-engine.toml")).unwrap());
        }
    }
}
