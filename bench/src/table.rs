//! Rows of a measurement, for people and for programs.

use serde::Serialize;

/// One figure beside what it is compared with.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) against: &'static str,
    pub(crate) against_value: f64,
    pub(crate) ratio: f64,
    pub(crate) goal: Option<f64>,
    pub(crate) met: Option<bool>,
}

impl Row {
    /// A figure whose ratio to `against_value` must be at most `goal`.
    pub(crate) fn new(
        case: String,
        (value, unit): (f64, &'static str),
        (against, against_value): (&'static str, f64),
        goal: Option<f64>,
    ) -> Self {
        let ratio = value / against_value;
        Self { case, value, unit, against, against_value, ratio, goal, met: goal.map(|goal| ratio <= goal) }
    }
}

impl Row {
    /// A figure that must be within a factor of `near` of `against_value`, above or below.
    pub(crate) fn near(
        case: String,
        value: (f64, &'static str),
        (against, against_value): (&'static str, f64),
        near: f64,
    ) -> Self {
        let row = Self::new(case, value, (against, against_value), Some(near));
        Self { met: Some((1.0 / near..=near).contains(&row.ratio)), ..row }
    }
}

pub(crate) fn print(rows: &[Row]) {
    println!("{:<58}{:>12} {:<8}{:>12}  {:<28}{:>7}{:>7}", "case", "value", "unit", "against", "", "ratio", "goal");
    for row in rows {
        let goal = match (row.goal, row.met) {
            (Some(goal), Some(true)) => format!("{goal:.2}"),
            (Some(goal), _) => format!("{goal:.2}!"),
            _ => String::new(),
        };
        println!(
            "{:<58}{:>12.1} {:<8}{:>12.1}  {:<28}{:>7.2}{goal:>7}",
            row.case, row.value, row.unit, row.against_value, row.against, row.ratio
        );
    }
}

pub(crate) fn json(rows: &[Row]) -> String {
    serde_json::json!({ "rows": rows }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_whether_its_goal_is_met() {
        let row = |value| Row::new("x".into(), (value, "us"), ("y", 2.0), Some(1.5));
        assert_eq!((row(3.0).met, row(3.1).met), (Some(true), Some(false)));
        let json: serde_json::Value = serde_json::from_str(&json(&[row(3.0)])).unwrap();
        for field in ["case", "value", "unit", "against", "against_value", "ratio", "goal", "met"] {
            assert!(!json["rows"][0][field].is_null(), "{field}");
        }
    }
}
