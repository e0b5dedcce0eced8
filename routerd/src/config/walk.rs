//! Holds a parsed file against the schema: unknown keys, wrong types, values out of bounds, all of them at once.
//!
//! What is wrong is taken out of the file, so that what is left can be read and checked further in the same run.
//! The depth of the walk is that of the schema, whatever the file's is.

use std::ops::Range;

use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::error::Problem;
use super::units::{Period, Size};

/// Longer texts are cut when they are quoted.
const QUOTED: usize = 60;

/// Collects in `problems` what in `table` the schema does not allow, and takes it out.
pub(super) fn table(schema: &Value, table: &mut DeTable<'_>, path: &str, problems: &mut Vec<Problem>) {
    let properties = schema["properties"].as_object();
    let any = schema.get("additionalProperties").filter(|any| any.is_object());
    let mut wrong = Vec::new();
    for (key, value) in table.iter_mut() {
        let name = key.get_ref().as_ref();
        let below = if path.is_empty() { name.to_owned() } else { format!("{path}.{}", clip(name)) };
        let Some(schema) = properties.and_then(|all| all.get(name)).or(any) else {
            problems.push(unknown(key.span(), name, path, properties));
            wrong.push(name.to_owned());
            continue;
        };
        let before = problems.len();
        if !entry(schema, value, &below, problems) {
            debug_assert!(problems.len() > before, "what is taken out is reported");
            wrong.push(name.to_owned());
        }
    }
    for name in wrong {
        table.remove(name.as_str());
    }
}

/// Whether a key's value may stay. What is wrong inside a table is taken out there.
fn entry(schema: &Value, value: &mut Spanned<DeValue<'_>>, path: &str, problems: &mut Vec<Problem>) -> bool {
    let span = value.span();
    match (value.get_mut(), schema["type"].as_str()) {
        (DeValue::Table(inner), Some("object")) => {
            let most = schema["maxProperties"].as_u64().unwrap_or(u64::MAX);
            if inner.len() as u64 > most {
                problems.push(Problem::new(
                    span,
                    format!("{path} has {} entries; it may have {most}", inner.len()),
                ));
                return false;
            }
            table(schema, inner, path, problems);
            true
        }
        (DeValue::Array(items), Some("array")) => {
            let least = schema["minItems"].as_u64().unwrap_or(0);
            let most = schema["maxItems"].as_u64().unwrap_or(u64::MAX);
            let count = items.len() as u64;
            if count < least || count > most {
                let problem = Problem::new(span, format!("{path} must have {least} to {most} entries"));
                problems.push(problem.found(format!("{count} found")));
                return false;
            }
            let before = problems.len();
            if schema["items"]["type"] == "object" {
                return tables(&schema["items"], items, path, problems);
            }
            problems
                .extend(items.iter().filter_map(|item| leaf(&schema["items"], item, path).err()).map(|e| *e));
            problems.len() == before
        }
        _ => leaf(schema, value, path).map_err(|problem| problems.push(*problem)).is_ok(),
    }
}

/// Whether a list of tables may stay. What is wrong inside one of them is taken out there.
fn tables(schema: &Value, items: &mut DeArray<'_>, path: &str, problems: &mut Vec<Problem>) -> bool {
    let before = problems.len();
    let mut all_tables = true;
    for item in items.iter_mut() {
        if let DeValue::Table(inner) = item.get_mut() {
            table(schema, inner, path, problems);
        } else {
            problems.extend(leaf(schema, item, path).err().map(|problem| *problem));
            all_tables = false;
        }
    }
    debug_assert!(all_tables || problems.len() > before, "what is taken out is reported");
    all_tables
}

/// A value that is no table and no list.
fn leaf(schema: &Value, value: &Spanned<DeValue<'_>>, path: &str) -> Result<(), Box<Problem>> {
    let wrong = |why: &str, help: String| {
        let found = format!("found {}", describe(value.get_ref()));
        let problem = Problem::new(value.span(), format!("{path}: {why}")).found(found);
        Err(Box::new(problem.help(format!("allowed: {help}"))))
    };
    let mistyped = format!("this is not {}", kind(schema));
    match (value.get_ref(), schema["type"].as_str().unwrap_or("string")) {
        (DeValue::String(text), "string") => match text_problem(schema, text) {
            Some(why) => wrong(&why, allowed(schema)),
            None => Ok(()),
        },
        (DeValue::Boolean(_), "boolean") => Ok(()),
        (DeValue::Integer(number), "integer" | "number") => {
            // What does not fit is beyond every bound there is.
            let beyond = if number.as_str().starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY };
            let value =
                i128::from_str_radix(number.as_str(), number.radix()).map_or(beyond, |exact| exact as f64);
            out_of_range(schema, value).map_or(Ok(()), |why| wrong(why, allowed(schema)))
        }
        (DeValue::Float(number), "number") => {
            let value = number.as_str().parse().unwrap_or(f64::NAN);
            out_of_range(schema, value).map_or(Ok(()), |why| wrong(why, allowed(schema)))
        }
        _ => wrong(&mistyped, allowed(schema)),
    }
}

/// Why a text is not what the schema wants.
fn text_problem(schema: &Value, text: &str) -> Option<String> {
    let words = words(schema);
    if !words.is_empty() {
        let help = nearest(text, words.iter().copied(), 1 + text.len() / 4)
            .map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
        return (!words.contains(&text)).then(|| format!("unknown value \"{}\"{help}", clip(text)));
    }
    match schema["x-unit"].as_str() {
        Some("duration") => match Period::parse(text) {
            Ok(value) => beyond(
                value,
                bound(schema, "x-floor", Period::parse),
                bound(schema, "x-ceiling", Period::parse),
            ),
            Err(why) => Some(why),
        },
        Some("size") => match Size::parse(text) {
            Ok(value) => {
                beyond(value, bound(schema, "x-floor", Size::parse), bound(schema, "x-ceiling", Size::parse))
            }
            Err(why) => Some(why),
        },
        _ => text.contains('\0').then(|| "a NUL character cannot stand here".to_owned()),
    }
}

fn bound<T>(schema: &Value, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
    parse(schema[name].as_str()?).ok()
}

fn beyond<T: PartialOrd>(value: T, floor: Option<T>, ceiling: Option<T>) -> Option<String> {
    if floor.is_some_and(|floor| value < floor) {
        return Some("the value is below the floor".to_owned());
    }
    ceiling.is_some_and(|ceiling| value > ceiling).then(|| "the value is above the ceiling".to_owned())
}

/// A number that is no number is out of every range.
fn out_of_range(schema: &Value, value: f64) -> Option<&'static str> {
    let floor = schema["minimum"].as_f64().unwrap_or(f64::MIN);
    let ceiling = schema["maximum"].as_f64().unwrap_or(f64::MAX);
    if value < floor {
        return Some("the value is below the floor");
    }
    if value > ceiling || value.is_nan() {
        return Some("the value is above the ceiling");
    }
    None
}

/// The words that an enumeration allows.
pub(super) fn words(schema: &Value) -> Vec<&str> {
    let plain = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let described = schema["oneOf"].as_array().into_iter().flatten().filter_map(|one| one["const"].as_str());
    plain.chain(described).collect()
}

/// What kind of value the schema wants.
fn kind(schema: &Value) -> &'static str {
    match (schema["type"].as_str(), schema["x-unit"].as_str()) {
        (Some("object"), _) => "a table",
        (Some("array"), _) if schema["items"]["type"] == "object" => "a list of tables",
        (Some("array"), _) => "a list of texts",
        (Some("boolean"), _) => "true or false",
        (Some("integer"), _) => "a whole number",
        (Some("number"), _) => "a number",
        (_, Some("duration")) => "a duration",
        (_, Some("size")) => "a size",
        _ => "a text",
    }
}

/// What the schema allows, in words.
fn allowed(schema: &Value) -> String {
    let words = words(schema);
    if !words.is_empty() {
        return words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
    }
    let what = match kind(schema) {
        "a duration" => Period::ALLOWED,
        "a size" => Size::ALLOWED,
        kind => kind,
    };
    range(schema)
        .map_or_else(|| what.to_owned(), |(floor, ceiling)| format!("{what}, from {floor} to {ceiling}"))
}

/// The floor and the ceiling of a value, as they would be written.
pub(super) fn range(schema: &Value) -> Option<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let of = |floor: &str, ceiling: &str| Some((text(schema.get(floor)?), text(schema.get(ceiling)?)));
    of("x-floor", "x-ceiling").or_else(|| of("minimum", "maximum"))
}

fn unknown(span: Range<usize>, key: &str, path: &str, properties: Option<&Map<String, Value>>) -> Problem {
    let place = if path.is_empty() { "the file".to_owned() } else { format!("[{path}]") };
    let keys = properties.into_iter().flatten().map(|(name, _)| name.as_str());
    let elsewhere = properties
        .into_iter()
        .flatten()
        .find_map(|(name, table)| table["properties"].get(key).map(|_| format!("{name}.{key}")));
    let near = |most| nearest(key, keys.clone(), most).map(str::to_owned);
    // A slip of the pen is likelier than a key of another table.
    let near = near(1).or(elsewhere).or_else(|| near(1 + key.len() / 4));
    let near = near.map_or_else(String::new, |near| format!("did you mean `{near}`? "));
    let allowed = keys.collect::<Vec<_>>().join(", ");
    Problem::new(span, format!("unknown key `{}` in {place}", clip(key)))
        .found("this key means nothing here")
        .help(format!("{near}allowed: {allowed}"))
}

/// The candidate that is written almost like `text`: with that many slips at the most.
fn nearest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>, most: usize) -> Option<&'a str> {
    if text.len() > QUOTED {
        return None;
    }
    let text = text.to_lowercase().replace('-', "_");
    let far = |name: &str| strsim::damerau_levenshtein(&text, &name.replace('-', "_"));
    let near = candidates.map(|name| (far(name), name)).min()?;
    (near.0 <= most).then_some(near.1)
}

/// A value in words.
fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("\"{}\"", clip(text)),
        DeValue::Integer(number) => format!("the number {}", clip(number.as_str())),
        DeValue::Float(number) => format!("the number {}", clip(number.as_str())),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(time) => format!("the time {time}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// The beginning of a text that may be too long to quote, with nothing in it that could steer a terminal.
pub(super) fn clip(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}...", text[..end].escape_debug()),
        None => text.escape_debug().to_string(),
    }
}
