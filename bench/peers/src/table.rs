//! Rows of a measurement, for people and for programs, in the form of all of Keystone's measurements.

use serde::Serialize;

/// Keystone's figure beside OpenMLS's.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) against: &'static str,
    pub(crate) against_value: f64,
    pub(crate) ratio: f64,
    /// None: the two make different promises, so no ratio is right or wrong.
    pub(crate) goal: Option<f64>,
    pub(crate) met: Option<bool>,
}

impl Row {
    pub(crate) fn new(case: String, (value, unit): (f64, &'static str), against_value: f64) -> Self {
        let ratio = value / against_value;
        Self { case, value, unit, against: "OpenMLS", against_value, ratio, goal: None, met: None }
    }
}

pub(crate) fn print(rows: &[Row]) {
    println!("{:<58}{:>10} {:<7}{:>11}{:>10}", "case", "Keystone", "unit", "OpenMLS", "ratio");
    for Row { case, value, unit, against_value, ratio, .. } in rows {
        println!("{case:<58}{value:>10.1} {unit:<7}{against_value:>11.1}{ratio:>10.5}");
    }
}

pub(crate) fn json(rows: &[Row]) -> String {
    serde_json::json!({ "rows": rows }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_all_fields() {
        let json: serde_json::Value = serde_json::from_str(&json(&[Row::new("x".into(), (3.0, "us"), 2.0)])).unwrap();
        let row = json["rows"][0].as_object().unwrap();
        for field in ["case", "value", "unit", "against", "against_value", "ratio", "goal", "met"] {
            assert!(row.contains_key(field), "{field}");
        }
        assert_eq!(row["ratio"], 1.5);
    }
}
