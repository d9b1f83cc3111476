//! What was measured, for people and for programs.

use std::time::Duration;

use serde_json::json;

/// One figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    pub metric: &'static str,
    pub unit: &'static str,
    pub value: f64,
}

/// Prints all of one case, as a table or a JSON line each.
pub fn print(case: &str, figures: &[Figure], as_json: bool) {
    if !as_json {
        println!("| {case} | |\n|---|---|");
    }
    for Figure { metric, unit, value } in figures {
        if as_json {
            let line = json!({"bench": "control", "subject": "warren", "case": case, "metric": metric, "unit": unit,
                "median": value, "min": value, "max": value, "runs": 1});
            println!("{line}");
        } else {
            println!("| {metric} | {value:.3} {unit} |");
        }
    }
}

/// The value below which this part of all values is, by the nearest rank.
pub fn quantile(values: &[Duration], part: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable();
    let rank = (values.len() as f64 * part).ceil().max(1.0) as usize;
    values.get(rank - 1).map_or(f64::NAN, Duration::as_secs_f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values: Vec<Duration> = (1..=100).rev().map(Duration::from_secs).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|part| quantile(&values, part)), [50.0, 99.0, 100.0]);
        assert_eq!(quantile(&values[..1], 0.99), 100.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
