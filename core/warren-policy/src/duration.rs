//! Lengths of time as policies write them: `12h`, `1h30m`, `-1m`, `1.5s`.
//!
//! The form, what is refused and the words for it are those of Go's `time.ParseDuration`, because the field's tools use it.

use std::fmt;

/// A length of time that may be negative, as written. Nanoseconds; at most some 292 years either way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct SignedDuration(pub(crate) i64);

const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

const UNITS: [(&str, i64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", MINUTE),
    ("h", HOUR),
];

impl SignedDuration {
    pub(crate) const fn hours(hours: i64) -> SignedDuration {
        SignedDuration(hours * HOUR)
    }

    /// # Errors
    /// The field's own words.
    pub(crate) fn parse(text: &str) -> Result<SignedDuration, String> {
        let invalid = || format!("time: invalid duration {text:?}");
        let (is_negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if unsigned == "0" {
            return Ok(SignedDuration(0));
        }
        let mut rest = unsigned;
        let mut total: i64 = 0;
        while !rest.is_empty() || unsigned.is_empty() {
            let whole = digits(rest);
            let after = &rest[whole.len()..];
            let (fraction, after) = match after.strip_prefix('.') {
                None => ("", after),
                Some(after) => {
                    let fraction = digits(after);
                    (fraction, &after[fraction.len()..])
                }
            };
            if whole.is_empty() && fraction.is_empty() {
                return Err(invalid());
            }
            let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
            let (unit, next) = after.split_at(end);
            if unit.is_empty() {
                return Err(format!("time: missing unit in duration {text:?}"));
            }
            let Some((_, nanos)) = UNITS.iter().find(|(name, _)| *name == unit) else {
                return Err(format!("time: unknown unit {unit:?} in duration {text:?}"));
            };
            total = scaled(whole, fraction, *nanos).and_then(|part| total.checked_add(part)).ok_or_else(invalid)?;
            rest = next;
        }
        Ok(SignedDuration(if is_negative { -total } else { total }))
    }
}

fn digits(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len())]
}

/// `whole.fraction` units of so many nanoseconds; what is smaller than a nanosecond is cut off.
fn scaled(whole: &str, fraction: &str, nanos: i64) -> Option<i64> {
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(nanos)?;
    let mut place = nanos;
    for digit in fraction.bytes() {
        // Rounds each digit down on its own; no unit has more than 14 of them that count, so nothing is lost that shows.
        total = total.checked_add(i64::from(digit - b'0') * place / 10)?;
        place /= 10;
    }
    Some(total)
}

/// `168h0m1s`, `1m0s`, `1.5s`, `250ms`: as the field prints it.
impl fmt::Display for SignedDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let nanos = self.0.unsigned_abs();
        let second = SECOND.unsigned_abs();
        if nanos == 0 {
            return f.write_str("0s");
        }
        if nanos < second {
            let (unit, size) = match nanos {
                0..1_000 => ("ns", 1),
                1_000..1_000_000 => ("\u{b5}s", 1_000),
                _ => ("ms", 1_000_000),
            };
            return write!(f, "{}{unit}", decimal(nanos, size));
        }
        let (minutes, rest) = (nanos / MINUTE.unsigned_abs(), nanos % MINUTE.unsigned_abs());
        match (minutes / 60, minutes % 60) {
            (0, 0) => {}
            (0, minutes) => write!(f, "{minutes}m")?,
            (hours, minutes) => write!(f, "{hours}h{minutes}m")?,
        }
        write!(f, "{}s", decimal(rest, second))
    }
}

fn decimal(nanos: u64, size: u64) -> String {
    let (whole, rest) = (nanos / size, nanos % size);
    if rest == 0 {
        return whole.to_string();
    }
    let width = size.ilog10() as usize;
    format!("{whole}.{rest:0width$}").trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_read_and_print_as_the_field_does() {
        for (text, printed) in [
            ("0", "0s"),
            ("12h", "12h0m0s"),
            ("168h0m1s", "168h0m1s"),
            ("-1m", "-1m0s"),
            ("+90s", "1m30s"),
            ("1.5h", "1h30m0s"),
            (".5s", "500ms"),
            ("1.s", "1s"),
            ("1500us", "1.5ms"),
            ("3\u{b5}s", "3\u{b5}s"),
            ("7ns", "7ns"),
            ("1h0.25s", "1h0m0.25s"),
        ] {
            assert_eq!(SignedDuration::parse(text).map(|length| length.to_string()), Ok(printed.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_in_the_fields_words() {
        for (text, words) in [
            ("", "time: invalid duration \"\""),
            ("abc", "time: invalid duration \"abc\""),
            ("-", "time: invalid duration \"-\""),
            (".h", "time: invalid duration \".h\""),
            ("12", "time: missing unit in duration \"12\""),
            ("7d", "time: unknown unit \"d\" in duration \"7d\""),
            ("1h 1m", "time: unknown unit \"h \" in duration \"1h 1m\""),
            ("3000000h", "time: invalid duration \"3000000h\""),
            ("99999999999999999999s", "time: invalid duration \"99999999999999999999s\""),
        ] {
            assert_eq!(SignedDuration::parse(text), Err(words.to_owned()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(nanos in prop_oneof![any::<i64>().prop_map(|n| n.max(-i64::MAX)), -10_000_000_000_i64..10_000_000_000]) {
            let length = SignedDuration(nanos);
            prop_assert_eq!(SignedDuration::parse(&length.to_string()), Ok(length));
        }
    }
}
