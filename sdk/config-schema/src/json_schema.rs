//! A schema as JSON Schema, for editors and other tools.

use serde_json::{Map, Value as Json, json};

use crate::{Field, ITEMS_MAX, Kind, SECRET_NAME_BYTES_MAX, Table};

impl Table {
    /// The whole configuration as JSON Schema (draft 2020-12).
    pub fn json_schema(&self) -> Json {
        let mut schema = self.object();
        schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        Json::Object(schema)
    }

    fn object(&self) -> Map<String, Json> {
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for field in &self.fields {
            let mut schema = match &field.kind {
                Kind::List { item } => {
                    let mut item = scalar(item);
                    bounded(&mut item, field.min.as_ref(), field.max.as_ref());
                    let most = field.max_items.unwrap_or(ITEMS_MAX);
                    map(json!({ "type": "array", "items": item, "maxItems": most }))
                }
                Kind::Table(table) => table.object(),
                kind => {
                    let mut schema = scalar(kind);
                    bounded(&mut schema, field.min.as_ref(), field.max.as_ref());
                    schema
                }
            };
            if !field.doc.is_empty() {
                schema.insert("description".to_owned(), json!(field.doc));
            }
            if let Some(default) = &field.default {
                schema.insert("default".to_owned(), default.clone());
            }
            if is_needed(field) {
                required.push(json!(field.name));
            }
            properties.insert(field.name.clone(), Json::Object(schema));
        }
        map(json!({
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": self.open,
        }))
    }
}

/// Whether a configuration without it is refused. A table is needed for what is needed of it.
fn is_needed(field: &Field) -> bool {
    match &field.kind {
        Kind::Table(table) => !field.optional && table.fields.iter().any(is_needed),
        _ => !field.optional && field.default.is_none(),
    }
}

fn map(json: Json) -> Map<String, Json> {
    match json {
        Json::Object(map) => map,
        _ => Map::new(),
    }
}

/// Bounds that are numbers are numbers there, too; those with units it has no words for.
fn bounded(schema: &mut Map<String, Json>, min: Option<&Json>, max: Option<&Json>) {
    for (key, bound) in [("minimum", min), ("maximum", max)] {
        if let Some(bound @ Json::Number(_)) = bound {
            schema.insert(key.to_owned(), bound.clone());
        }
    }
}

fn scalar(kind: &Kind) -> Map<String, Json> {
    map(match kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Unsigned => json!({ "type": ["integer", "string"], "pattern": "^[0-9]{1,78}$", "minimum": 0 }),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Duration => json!({ "type": "string", "pattern": "^([0-9]+ *(ms|s|m|min|h|d) *)+$" }),
        Kind::Bytes => {
            json!({ "type": ["integer", "string"], "pattern": "^[0-9]+ *(B|kB|MB|GB|KiB|MiB|GiB)?$", "minimum": 0 })
        }
        Kind::Wei => {
            let pattern = "^[0-9]+([.][0-9]+)? *(wei|gwei|ether|eth)?$";
            json!({ "type": ["integer", "string"], "pattern": pattern, "minimum": 0 })
        }
        Kind::Address => json!({ "type": "string", "pattern": "^0x[0-9a-fA-F]{40}$" }),
        Kind::Choice { of } => json!({ "enum": of }),
        Kind::Secret => {
            json!({ "type": "string", "pattern": format!("^[A-Za-z0-9._-]{{1,{SECRET_NAME_BYTES_MAX}}}$") })
        }
        Kind::List { item } => json!({ "type": "array", "items": scalar(item) }),
        Kind::Table(table) => Json::Object(table.object()),
    })
}
