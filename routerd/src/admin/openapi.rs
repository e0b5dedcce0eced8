//! The description of the interface in OpenAPI 3.1, made from the table of endpoints and the types they take and give.

use std::sync::LazyLock;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::api::{Endpoint, endpoints};
use super::reply::Wrong;

/// The document.
pub(super) static DOCUMENT: LazyLock<Value> = LazyLock::new(document);

fn document() -> Value {
    let settings = SchemaSettings::draft2020_12();
    let settings = settings.with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for endpoint in endpoints() {
        let operation = operation(&endpoint, &mut generator);
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        path[endpoint.method] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "routerd",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What can be seen of a running routerd, and what it can be told to do. On a Unix \
                socket, and on a loopback address without tokens, no authorization is needed.",
        },
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn operation(endpoint: &Endpoint, generator: &mut SchemaGenerator) -> Value {
    let places = endpoint.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<_> = places
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    parameters.extend(endpoint.query.iter().map(|(name, about)| {
        let kind = if *name == "limit" { "integer" } else { "string" };
        json!({ "name": name, "in": "query", "description": about, "schema": { "type": kind } })
    }));
    let content = match endpoint.answer {
        Some(schema) => json!({ "application/json": { "schema": schema(generator) } }),
        None => json!({ "text/plain": { "schema": { "type": "string" } } }),
    };
    let mut answers = json!({
        "200": { "description": "Done.", "content": content },
        "default": {
            "description": "Refused; nothing has changed.",
            "content": { "application/json": { "schema": generator.subschema_for::<Wrong>() } },
        },
    });
    if endpoint.method == "post" {
        answers["202"] = json!({ "description": "Begun: a deploy carries it out.", "content": content });
    }
    let id = endpoint.path.split(['/', '{', '}', '.']).filter(|part| !part.is_empty());
    let id = std::iter::once(endpoint.method).chain(id).collect::<Vec<_>>().join("_");
    let mut operation = json!({
        "operationId": id,
        "summary": endpoint.about,
        "parameters": parameters,
        "responses": answers,
    });
    if let Some(schema) = endpoint.body {
        let schema = schema(generator);
        operation["requestBody"] = json!({ "content": { "application/json": { "schema": schema } } });
    }
    operation["security"] = match endpoint.needs {
        Some(role) => {
            operation["description"] = format!("Needs the role `{role}`.").into();
            json!([{ "token": [] }, {}])
        }
        None => json!([]),
    };
    operation
}
