//! Lengths of time as people write them in a file: `90s`, `15m`, `12h`, `180d`, `0`.

use std::time::Duration;

/// # Errors
/// What is wrong, for a person.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a length of time such as 90s, 12h or 180d");
    let text = text.trim();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.trim().parse().map_err(|_| wrong())?;
    // A century is more than anyone means, and far from where sums of times overflow.
    let total = number.checked_mul(seconds).filter(|total| *total <= 100 * 366 * 86_400).ok_or_else(wrong)?;
    Ok(Duration::from_secs(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_one_unit() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("12h", 43_200), ("180d", 15_552_000), ("0", 0)] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "5", "s", "1.5h", "-1s", "1w", "99999999999d", "µ"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
