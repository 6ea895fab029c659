//! The schema of a module's configuration, as its component carries it, and what is wrong with a configuration by it. The
//! component is neither compiled nor verified for that: its sections are walked, and the one that has the schema is read.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufReader, Read as _},
    path::Path,
};

use nexum_config_schema::{Kind, SCHEMA_BYTES_MAX, SECTION, Table, Value};
use nexum_host_ifaces::{
    bounded::{MESSAGE_BYTES_MAX, NAME_BYTES_MAX, cut},
    secrets,
    types::{ConfigScalar, ConfigValue},
};

use crate::{
    admin::ModuleSpec,
    load::{self, Plan},
    manifest,
};

/// Sections of a component, those of what is in it among them. Toolchains make fewer than a thousand.
const SECTIONS_MAX: usize = 20_000;
/// Components within components.
const DEPTH_MAX: usize = 8;
/// Tells components from modules, in what they begin with.
const LAYER_OF_COMPONENTS: u8 = 1;
const CUSTOM: u8 = 0;
/// Sections of a component that hold a whole module or component.
const MODULE: u8 = 1;
const COMPONENT: u8 = 4;

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// The component's own schema cannot be used.
    Schema(String),
    Value {
        /// Dotted, as `init` gets it.
        key: String,
        message: String,
        /// Whether the operator's value is meant, and not the manifest's.
        is_operators: bool,
    },
}

/// What a component says of its configuration; nothing when it says nothing, or is no component, which others tell.
///
/// # Errors
/// It has a schema that cannot be used.
pub fn of_component(path: &Path) -> Result<Option<Table>, String> {
    let text = load::open(path).and_then(section);
    match text {
        Ok(Some(text)) => {
            let told = |error: String| format!("the schema of its configuration cannot be used: {error}");
            Table::parse(&text).map(Some).map_err(|error| cut(told(error), MESSAGE_BYTES_MAX))
        }
        Ok(None) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(error.to_string()),
        Err(_) => Ok(None),
    }
}

/// What is wrong with the configuration of a planned module, if its component says what it may be.
pub fn check(plan: &Plan, spec: &ModuleSpec) -> Option<Wrong> {
    let schema = match of_component(&plan.component) {
        Ok(schema) => schema?,
        Err(error) => return Some(Wrong::Schema(error)),
    };
    let values: Vec<_> = plan.config.iter().map(|(key, value)| (key.clone(), given(value))).collect();
    let problem = schema.check(&values).err()?;
    let is_below = |above: &String| {
        problem.key.strip_prefix(above.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let is_operators = spec.config.keys().any(is_below);
    let message = cut(problem.message, MESSAGE_BYTES_MAX);
    Some(Wrong::Value { key: problem.key, message, is_operators })
}

/// The secrets that the configuration of a planned module names, each with its key.
pub fn secret_names(plan: &Plan) -> Vec<(String, String)> {
    // A schema that cannot be used is told by whoever checks the configuration.
    let schema = of_component(&plan.component).ok().flatten();
    let fields = schema.iter().flat_map(Table::flat).filter(|(_, field)| match &field.kind {
        Kind::Secret => true,
        Kind::List { item } => **item == Kind::Secret,
        _ => false,
    });
    let keys: BTreeSet<String> = fields.map(|(key, _)| key).collect();
    let named = plan.config.iter().filter(|(key, _)| keys.contains(key)).flat_map(|(key, value)| {
        let names = match given(value) {
            Value::Text(name) => vec![name],
            Value::List(items) => items.into_iter().filter_map(text).collect(),
            Value::Integer(_) | Value::Boolean(_) => Vec::new(),
        };
        names.into_iter().map(|name| (key.clone(), name)).collect::<Vec<_>>()
    });
    named.collect()
}

fn text(value: Value) -> Option<String> {
    if let Value::Text(text) = value { Some(text) } else { None }
}

/// What is wrong with the configuration in one line, with the file and the line that are wrong as far as they are known.
///
/// # Errors
/// What is wrong.
pub fn checked(plan: Plan, spec: &ModuleSpec) -> Result<Plan, String> {
    let (at, _) = load::bundle(&spec.source);
    // Whoever mixes up the sides of an equals sign has the secret in the key.
    let shown = |key: &str| cut(if secrets::holds_secret(key) { secrets::MASK } else { key }, NAME_BYTES_MAX);
    match check(&plan, spec) {
        None => Ok(plan),
        Some(Wrong::Schema(error)) => Err(format!("{}: {error}", plan.component.display())),
        Some(Wrong::Value { key, message, is_operators: true }) => {
            let place = spec.places.of(&key).unwrap_or("as the operator has it");
            Err(format!("module `{}`: {place}: [modules.config] {}: {message}", plan.manifest.name, shown(&key)))
        }
        Some(Wrong::Value { key, message, .. }) => {
            let line = manifest::config_line(&at, &key).map(|line| format!(":{line}")).unwrap_or_default();
            Err(format!("{}{line}: [config] {}: {message}", at.display(), shown(&key)))
        }
    }
}

fn given(value: &ConfigValue) -> Value {
    let scalar = |scalar: &ConfigScalar| match scalar {
        ConfigScalar::String(text) => Value::Text(text.clone()),
        ConfigScalar::Integer(number) => Value::Integer(*number),
        ConfigScalar::Boolean(flag) => Value::Boolean(*flag),
    };
    match value {
        ConfigValue::String(text) => Value::Text(text.clone()),
        ConfigValue::Integer(number) => Value::Integer(*number),
        ConfigValue::Boolean(flag) => Value::Boolean(*flag),
        ConfigValue::List(items) => Value::List(items.iter().map(scalar).collect()),
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// The text of the section that has the schema.
fn section(file: File) -> io::Result<Option<String>> {
    let end = file.metadata()?.len();
    let mut walk = Walk { file: BufReader::new(file), at: 0, sections: 0, found: None };
    // A file that ends too early is no component, which others tell; what was found before may be of a whole one.
    match walk.sections(end, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        other => other?,
    }
    walk.found
        .map(|bytes| String::from_utf8(bytes).map_err(|_| wrong("the schema of its configuration is no text")))
        .transpose()
}

struct Walk {
    file: BufReader<File>,
    at: u64,
    sections: usize,
    found: Option<Vec<u8>>,
}

impl Walk {
    /// Goes through a module or a component that ends there.
    fn sections(&mut self, end: u64, depth: usize) -> io::Result<()> {
        let mut header = [0; 8];
        self.read(&mut header)?;
        let is_component = header[6] == LAYER_OF_COMPONENTS;
        while self.at < end {
            self.sections += 1;
            if self.sections > SECTIONS_MAX {
                return Err(wrong("it has more sections than are hosted"));
            }
            let (id, length) = (self.byte()?, self.number()?);
            let section_end = self.at.saturating_add(length);
            if section_end > end {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match id {
                CUSTOM => self.custom(section_end)?,
                // A core module has other sections of these numbers.
                MODULE | COMPONENT if is_component && depth < DEPTH_MAX => self.sections(section_end, depth + 1)?,
                _ => {}
            }
            self.skip_to(section_end)?;
        }
        Ok(())
    }

    /// Takes the schema, if this is its section.
    fn custom(&mut self, end: u64) -> io::Result<()> {
        let length = self.number()?;
        if length != SECTION.len() as u64 || self.at + length > end {
            return Ok(());
        }
        let mut name = [0; SECTION.len()];
        self.read(&mut name)?;
        if name != *SECTION.as_bytes() {
            return Ok(());
        }
        let length = usize::try_from(end - self.at).unwrap_or(usize::MAX);
        if length > SCHEMA_BYTES_MAX {
            return Err(wrong("the schema of its configuration is larger than is read"));
        }
        let mut text = vec![0; length];
        self.read(&mut text)?;
        match self.found.replace(text) {
            None => Ok(()),
            Some(_) => Err(wrong("it has several schemas of its configuration")),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.read(&mut byte)?;
        Ok(byte[0])
    }

    /// A number of 32 bits, as LEB128.
    fn number(&mut self) -> io::Result<u64> {
        let mut number = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        // Whoever compiles it says what is wrong.
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    fn skip_to(&mut self, at: u64) -> io::Result<()> {
        let ahead = i64::try_from(at.saturating_sub(self.at)).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        self.file.seek_relative(ahead)?;
        self.at = at;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nexum_testkit::wasm::{component, core_module, section as of_wasm, string};

    use super::*;

    const SCHEMA: &str = r#"{"kind":"table","fields":[{"name":"every","type":{"kind":"integer","min":1,"max":9}}]}"#;

    /// A custom section.
    fn custom(name: &str, content: &[u8]) -> Vec<u8> {
        of_wasm(0, &[string(name), content.to_vec()].concat())
    }

    fn read(bytes: &[u8]) -> Result<Option<Table>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("module.wasm");
        fs::write(&path, bytes).unwrap();
        of_component(&path)
    }

    #[test]
    fn the_schema_is_found_in_a_core_module_and_beside_it() {
        let (schema, other) = (custom(SECTION, SCHEMA.as_bytes()), custom("name", &[7; 300]));
        let inside =
            component(&[core_module(&[other.clone(), schema.clone()]), core_module(std::slice::from_ref(&other))]);
        assert_eq!(read(&inside).unwrap().unwrap().fields[0].name, "every");
        assert!(read(&component(&[other.clone(), schema.clone()])).unwrap().is_some());
        assert_eq!(read(&component(&[core_module(&[other])])), Ok(None));
        let twice = read(&component(&[core_module(std::slice::from_ref(&schema)), schema.clone()])).unwrap_err();
        assert_eq!(twice, "it has several schemas of its configuration");
        let unusable = read(&component(&[custom(SECTION, b"{}")])).unwrap_err();
        assert!(unusable.starts_with("the schema of its configuration cannot be used: "), "{unusable}");
        assert!(read(&component(&[custom(SECTION, &[0xff, 0xfe])])).is_err(), "no text");
        assert!(read(&component(&[custom(SECTION, &vec![b' '; SCHEMA_BYTES_MAX + 1])])).is_err());
        assert!(read(&component(&vec![custom("a", &[]); SECTIONS_MAX + 1])).is_err());
    }

    #[test]
    fn what_is_no_component_is_left_to_others() {
        let whole = component(&[core_module(&[custom(SECTION, SCHEMA.as_bytes())])]);
        for length in [0, 4, 7, 8, 9, 20, whole.len() - 1] {
            assert_eq!(read(&whole[..length]), Ok(None), "{length} bytes");
        }
        assert_eq!(of_component(Path::new("/nowhere/module.wasm")), Ok(None));
        assert_eq!(read(&[&whole[..8], &[0xff; 64]].concat()), Ok(None));
    }
}
