//! The report against its JSON Schema, by the few keywords that the schema uses.

use serde_json::Value;

const SCHEMA: &str = include_str!("../../schema/report.schema.json");

pub(crate) fn schema() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

/// What is wrong, with its place.
pub(crate) fn violations(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, value, "report", &mut found);
    found
}

fn check(schema: &Value, value: &Value, place: &str, found: &mut Vec<String>) {
    for keyword in schema.as_object().unwrap().keys() {
        let known = ["type", "const", "minimum", "properties", "required", "additionalProperties"];
        let told = ["items", "description", "title", "$schema"];
        assert!(known.iter().chain(&told).any(|k| k == keyword), "{keyword} is not checked");
    }
    if let Some(expected) = schema.get("const")
        && expected != value
    {
        found.push(format!("{place}: {value} is not {expected}"));
    }
    let types = match schema.get("type") {
        Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(kind)) => vec![kind.as_str()],
        _ => Vec::new(),
    };
    let is = |kind: &&str| match *kind {
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "null" => value.is_null(),
        other => panic!("{other}"),
    };
    if !types.is_empty() && !types.iter().any(is) {
        found.push(format!("{place}: {value} is no {}", types.join(" or ")));
    }
    if let (Some(minimum), Some(number)) = (schema.get("minimum"), value.as_f64())
        && number < minimum.as_f64().unwrap()
    {
        found.push(format!("{place}: {number} is less than {minimum}"));
    }
    if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
        for (index, value) in values.iter().enumerate() {
            check(items, value, &format!("{place}[{index}]"), found);
        }
    }
    let Some(fields) = value.as_object() else { return };
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        if !fields.contains_key(name.as_str().unwrap()) {
            found.push(format!("{place}: no {name}"));
        }
    }
    for (name, value) in fields {
        let place = format!("{place}.{name}");
        let known = schema.get("properties").and_then(|known| known.get(name));
        match known.or(schema.get("additionalProperties")) {
            Some(Value::Bool(false)) => found.push(format!("{place}: not in the schema")),
            Some(schema @ Value::Object(_)) => check(schema, value, &place, found),
            _ => {}
        }
    }
}

#[test]
fn a_broken_report_breaks_the_schema() {
    let schema = schema();
    let report = serde_json::json!({
        "schema": 2, "tool": "x", "finished_at": -1, "scenario": {}, "interrupted": "no",
        "window_seconds": 1.5, "figures": {"joined": "two"}, "latency_method": "", "times": {},
        "server": null, "tester": {}, "agents": [], "series": [{}], "warnings": [1], "more": 1,
    });
    let found = violations(&schema, &report).join("\n");
    for expected in [
        "report.schema: 2 is not 1",
        "report.finished_at: -1 is less than 0",
        "report.interrupted: \"no\" is no boolean",
        "report: no \"clients\"",
        "report.figures.joined: \"two\" is no number",
        "report.series[0]: no \"in_room\"",
        "report.warnings[0]: 1 is no string",
        "report.more: not in the schema",
    ] {
        assert!(found.contains(expected), "{expected} in\n{found}");
    }
    assert!(!found.contains("report.server"), "it may be null: {found}");
}
