//! The reference of the configuration, made from the schema: `docs/configure.md`.

use std::fmt::Write as _;

use serde_json::Value;

use super::{SCHEMA, walk};

const HEAD: &str = r#"# Configuration

<!-- Made from the types in routerd/src/config/file.rs. To make it anew: UPDATE_DOCS=1 cargo test -p routerd -->

"#;

const EXAMPLE: &str = r#"
`routerd check --config shop.toml` says what is wrong with a file, all of it, with line, column and what is
allowed. `routerd schema` prints the JSON schema, with which an editor completes keys and shows this text.

## A complete example

```toml
[server]
listen = ["127.0.0.1:8080"]

[admin]
listen = "unix:/run/routerd.sock"

[defaults]
queue = { max_wait = "5s" }

[apps.shop]
hosts = ["shop.test", "*.shop.test"]
dynos = ["127.0.0.1:3001", "127.0.0.1:3002"]

[apps.api]
hosts = ["shop.test/api"]
dynos = ["dns:api.shop.internal:3000"]
timeouts = { first_byte = "10s" }
queue = { max_requests_per_dyno = 20 }     # max_wait is still 5s
```
"#;

/// The example that stands in the reference.
pub fn example() -> &'static str {
    EXAMPLE.split("```").nth(1).and_then(|block| block.strip_prefix("toml\n")).unwrap_or_default()
}

/// The reference, as Markdown.
pub fn markdown() -> String {
    let mut out = HEAD.to_owned();
    let schema = &*SCHEMA;
    out.push_str(description(schema));
    out.push('\n');
    out.push_str(EXAMPLE);
    for (name, table) in schema["properties"].as_object().into_iter().flatten() {
        let (title, keys) = match name.as_str() {
            "apps" => ("apps.NAME".to_owned(), &table["additionalProperties"]),
            // A list of tables.
            name if table["type"] == "array" => (format!("[{name}]"), &table["items"]),
            name => (name.to_owned(), table),
        };
        let _ = write!(out, "\n## `[{title}]`\n\n{}\n", description(table));
        // Its keys are those of an app, described there.
        if name != "defaults" {
            write_keys(&mut out, keys, "");
        }
    }
    out
}

fn write_keys(out: &mut String, table: &Value, path: &str) {
    for (name, schema) in table["properties"].as_object().into_iter().flatten() {
        let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if schema["type"] == "object" {
            write_keys(out, schema, &key);
            continue;
        }
        let _ = write!(out, "\n### `{key}`\n\n{}", kind(schema));
        if let Some(default) = schema.get("default") {
            let _ = write!(out, " · default `{default}`");
        }
        if let Some((floor, ceiling)) = walk::range(schema) {
            let _ = write!(out, " · from {floor} to {ceiling}");
        }
        let _ = write!(out, "\n\n{}\n", description(schema));
        for word in schema["oneOf"].as_array().into_iter().flatten() {
            let _ = write!(out, "\n- `{}`: {}", word["const"], description(word));
        }
        if schema["oneOf"].is_array() {
            out.push('\n');
        }
        write_keys(out, &schema["items"], &key);
    }
}

fn kind(schema: &Value) -> String {
    match (schema["type"].as_str(), schema["x-unit"].as_str()) {
        (Some("array"), of) => {
            let most =
                schema["maxItems"].as_u64().map_or_else(String::new, |most| format!(", at most {most}"));
            let of = match of {
                Some("address") => "addresses",
                Some("host") => "hosts",
                Some("dyno") => "dynos",
                Some("app") => "apps",
                Some("network") => "networks",
                _ if schema["items"]["type"] == "object" => "tables",
                _ => "texts",
            };
            format!("list of {of}{most}")
        }
        (_, Some(unit)) => unit.to_owned(),
        (Some("boolean"), _) => "true or false".to_owned(),
        (Some("integer"), _) => "whole number".to_owned(),
        (Some("number"), _) => "number".to_owned(),
        _ if walk::words(schema).is_empty() => "text".to_owned(),
        _ => "one of the words below".to_owned(),
    }
}

fn description(schema: &Value) -> &str {
    schema["description"].as_str().unwrap_or_default()
}
