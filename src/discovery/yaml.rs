//! YAML manifests as JSON values, with labels and annotations as the texts that the file has (core).
//!
//! PyYAML writes the string `25921e05` without quotes, since it is no number in YAML 1.1. YAML 1.2 reads it as one, so a
//! label of that value would become another text. Kubernetes has texts only in `metadata.labels` and
//! `metadata.annotations`; there each scalar keeps its source text.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// A document of a YAML file.
pub(super) struct YamlDocument(pub(super) Value);

impl<'de> Deserialize<'de> for YamlDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Place::Other.deserialize(deserializer).map(Self)
    }
}

/// Where a value stands in its document.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Below the key `metadata`.
    Metadata,
    /// Below `labels` or `annotations` in `metadata`.
    Texts,
    /// Anywhere else.
    Other,
}

impl Place {
    fn below(self, key: &str) -> Self {
        match (self, key) {
            (Self::Metadata, "labels" | "annotations") => Self::Texts,
            (_, "metadata") => Self::Metadata,
            _ => Self::Other,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Place {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value without a tag")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    // An empty document.
    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = sequence.next_element_seed(Self::Other)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = match self {
                // Asked for a text, the parser gives the source text of a scalar, or nothing for an unquoted null.
                Self::Texts => map
                    .next_value::<Option<String>>()?
                    .map_or(Value::Null, Value::String),
                Self::Metadata | Self::Other => map.next_value_seed(self.below(&key))?,
            };
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(yaml: &str, expect: Value) {
        let document: YamlDocument = serde_yaml::from_str(yaml).unwrap();
        assert_eq!(document.0, expect, "{yaml}");
    }

    /// References: yaml/pyyaml#860, yaml/pyyaml#173, go-yaml/yaml#668.
    #[test]
    fn labels_and_annotations_keep_their_source_text() {
        for text in [
            "25921e05", "1E6", "12e5", "0o17", "0123", "1.0", "1_000", "true", "yes", "8080", ".inf",
        ] {
            let expect =
                json!({"metadata": {"labels": {"v": text}, "annotations": {"prometheus.io/port": text}}});
            check(
                &format!(
                    "metadata:\n  labels: {{v: {text}}}\n  annotations:\n    prometheus.io/port: {text}\n"
                ),
                expect,
            );
        }
        let nulls = json!({"metadata": {"labels": {"a": null, "b": "null", "c": "~", "d": null}}});
        check("metadata: {labels: {a: ~, b: 'null', c: \"~\", d: }}", nulls);
    }

    #[test]
    fn everything_else_is_as_yaml_has_it() {
        check(
            "kind: Pod\nspec:\n  containers: [{ports: [{containerPort: 8080}]}]\n  labels: {v: 1}\n  x: [true, ~, 1.5, -1]\n",
            json!({
                "kind": "Pod",
                "spec": {
                    "containers": [{"ports": [{"containerPort": 8080}]}],
                    "labels": {"v": 1},
                    "x": [true, null, 1.5, -1],
                },
            }),
        );
        check(
            "metadata: {labels: ~, annotations: ~}",
            json!({"metadata": {"labels": null, "annotations": null}}),
        );
        check(
            "items:\n- metadata: {labels: {v: 1e6}}\n",
            json!({"items": [{"metadata": {"labels": {"v": "1e6"}}}]}),
        );
    }
}
